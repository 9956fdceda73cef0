"""Every kernel compiles for CUDA, old and new devices; no GPU is needed for that.

What builds kernels is found by itself: the functions ``build*`` and ``_kernel`` of the modules in
``threestudio_asd.kernels``.
"""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch

from threestudio_asd import kernels as package
from threestudio_asd.kernels._warp import warp

ARCHITECTURES = (75, 90, 120)  # Turing, Hopper, Blackwell
# What a builder may be asked for, by the name of its argument; another name fails.
ARGUMENTS = {"n_features": 2, "dtype": torch.float32}


def builders():
    """Name -> function of everything that builds kernels."""
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__:
                continue  # imported
            if name.startswith("build") or name == "_kernel":
                yield f"{found.name}.{name}", value


def kernels():
    """The kernels that every builder makes; what a builder itself needs (functions) is none."""
    kernel, seen = warp().Kernel, set()
    for name, build in builders():
        made = build(*(ARGUMENTS[key] for key in inspect.signature(build).parameters))
        for value in vars(made).values() if not isinstance(made, kernel) else [made]:
            if isinstance(value, kernel) and value.key not in seen:
                seen.add(value.key)
                yield pytest.param(value, id=f"{name}-{value.key.split('__')[-1]}")


def test_every_kernel_has_been_found():
    source = "".join(file.read_text() for file in Path(package.__path__[0]).glob("*.py"))
    written = re.findall(r"@(?:wp\.)?kernel\b.*\n\s*def (\w+)", source)
    found = {row.values[0].key.split("__")[-1] for row in kernels()}
    assert found == set(written) and found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", kernels())
def test_compiles_for_cuda(kernel, architecture, tmp_path):
    wp = warp()
    if not wp.get_cuda_supported_archs():
        pytest.skip("this build of Warp has no CUDA compiler")
    wp.compile_aot_module(kernel.module, arch=architecture, module_dir=tmp_path)
    assert any(file.suffix in (".cubin", ".ptx") for file in tmp_path.iterdir())
