"""The project's requirements, for ``setup.py``, the drop-in and ``doctor``.

It runs before anything is installed and on Pythons older than ours, to say that they are: standard
library only, Python 3.8's syntax.
"""

from __future__ import annotations

import importlib
import re
import sys
from typing import Mapping  # noqa: UP035  (collections.abc's cannot be subscripted on 3.8)

PYTHON = "3.11"
THREESTUDIO = "0.2.3"

#: What the guidance and the systems need, on either host.
PLUGIN = {
    "torch": ">=2.11,<2.14",
    "numpy": ">=1.26",
    "diffusers": ">=0.40,<0.44",
    "transformers": ">=5.0,<6",
    "accelerate": ">=1.0",
    "peft": ">=0.19",
    "omegaconf": ">=2.3",
    "jaxtyping": ">=0.2.34",
    "safetensors": ">=0.4",
    "loky": ">=3.4",
}
#: What the bundled host and the command line need besides.
BUNDLED = {
    "pytorch-lightning": ">=2.5,<2.7",
    "warp-lang": ">=1.14",
    "trimesh": ">=4.5",
    "filelock": ">=3.12",
    "scikit-image": ">=0.24",
    "imageio": ">=2.34",
    "imageio-ffmpeg": ">=0.5",
    "pillow": ">=10",
    "rich": ">=13",
    "tensorboard": ">=2.16",
    "torchmetrics": ">=1.4",
}
_MODULES = {"warp-lang": "warp", "scikit-image": "skimage", "pillow": "PIL"}


def numbers(version: str) -> tuple[int, ...]:
    """The release as comparable numbers; "2.13.0+cpu" is (2, 13, 0)."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in leading.group().split(".")) if leading else ()


def older(version: str, than: str) -> bool:
    """Whether ``version`` is before ``than``; 0.20 and 0.20.0 are equal."""
    a, b = numbers(version), numbers(than)
    length = max(len(a), len(b))
    return a + (0,) * (length - len(a)) < b + (0,) * (length - len(b))


def bound(specifier: str, sign: str) -> str | None:
    """The version after ``sign`` (">=" or "<") in a specifier such as ">=2.11,<2.14"."""
    found = re.search(rf"(?:^|,){sign}([\d.]+)", specifier)
    return found.group(1) if found else None


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    from importlib import metadata  # Python 3.7, which has none, gets as far as python_problem

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def python_problem(version: str = "") -> str | None:
    """The problem with this Python, or None."""
    version = version or ".".join(str(part) for part in sys.version_info[:3])
    if not older(version, PYTHON):
        return None
    return f"Python {version} is too old (needed: {PYTHON} or newer)"


def problem(name: str, specifier: str, try_import: bool = False) -> str | None:
    """The problem with one library, or None.

    Newer than we tested is not wrong. ``try_import`` also finds a library that is there but broken.
    """
    version = installed(name)
    if version is None:
        return f"{name} is not installed (needed: {specifier})"
    if older(version, bound(specifier, ">=") or "0"):
        return f"{name} {version} is too old (needed: {specifier})"
    if try_import:
        try:
            importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
        except Exception as error:  # a broken installation raises anything
            reason = (str(error).strip().splitlines() or [""])[0]
            return f"{name} {version} cannot be imported ({type(error).__name__}: {reason})"
    return None


def problems(needed: Mapping[str, str], try_import: bool = False) -> dict[str, str]:
    """Name -> what is wrong with it, for those libraries with which something is."""
    found = {name: problem(name, spec, try_import) for name, spec in needed.items()}
    return {name: text for name, text in found.items() if text}


def install_command(names: Mapping[str, str]) -> str:
    """The line that installs what ``problems`` found, into the Python that runs."""
    every = {**PLUGIN, **BUNDLED}
    wanted = " ".join(f'"{name}{every[name]}"' for name in names)
    return f"{sys.executable} -m pip install {wanted}"


if __name__ == "__main__":  # make asks before it makes an environment
    too_old = python_problem()
    sys.exit(too_old and f"{too_old}; choose another: make setup PYTHON=python{PYTHON}")
