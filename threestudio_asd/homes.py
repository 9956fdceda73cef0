"""Where caches lie, and where instead if nothing can be written there.

Containers run users without a home, with a read-only one or with somebody else's; libraries then
fail deep inside, or make a folder named ``~``. Each border to such a library asks here first. A
cache that cannot lie where it should goes to a folder of this user's alone below the temporary one,
and one warning names the variable that chooses a better place.
"""

import contextlib
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from threestudio_asd.errors import UserError

_TOLD = "THREESTUDIO_ASD_TOLD"  # names of the caches of which a warning has told


@dataclass(frozen=True)
class Cache:
    """A folder that a library keeps between runs.

    Attributes:
        what: Its contents in words, in the plural.
        usual: The folder that the library would use; need not exist.
        remedy: How to choose another.
        name: Of the folder that replaces it.
    """

    what: str
    usual: Path
    remedy: str
    name: str

    def folder(self) -> Path:
        """``usual``, or the folder that replaces it, which is there, with one warning.

        Raises:
            UserError: Neither can be written to.
        """
        reason = unwritable(self.usual)
        if reason is None:
            return self.usual
        folder = self.replacement()
        self._tell(folder, reason)
        return folder

    def replacement(self) -> Path:
        """Makes the folder that replaces ``usual``. Raises UserError if that cannot be."""
        try:
            return private(self.name)
        except UserError as error:
            raise UserError(
                f"There is no place for {self.what}: {self.usual} cannot be written to "
                f"({unwritable(self.usual)}). {error} Or {self.remedy}."
            ) from error

    def _tell(self, folder: Path, reason: str) -> None:
        """Once for this process and those that it starts from now on."""
        told = os.environ.get(_TOLD, "").split(",")
        if self.name in told:
            return
        os.environ[_TOLD] = ",".join(filter(None, [*told, self.name]))
        logging.getLogger("threestudio_asd").warning(
            f"{self.what[0].upper()}{self.what[1:]} are kept in {folder}, because {self.usual} "
            f"cannot be written to ({reason}). To choose the place, {self.remedy}."
        )


def unwritable(folder: Path) -> str | None:
    """Why nothing can be put into ``folder``, which need not exist; None if it can.

    It is tried out, in the nearest folder that exists, and leaves nothing behind: permissions do
    not tell of read-only file systems, nor of what root may not do.
    """
    if is_homeless(folder):
        return "there is no home folder"
    folder = Path(os.path.abspath(folder))
    try:
        while not os.path.lexists(folder):
            folder = folder.parent
        Path(tempfile.mkdtemp(prefix=".writable-", dir=folder)).rmdir()
    except OSError as error:
        return error.strerror or str(error)
    return None


def is_homeless(folder: Path) -> bool:
    """Whether ``folder`` should lie in a home that is not there, and would be a folder "~"."""
    return folder.parts[:1] == ("~",)


def user_cache() -> Path:
    """Where this system's programs keep a user's caches; begins with ``~`` if there is no home."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", os.path.expanduser("~")))
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~/Library/Caches"))
    return Path(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")))


def private(name: str) -> Path:
    """The folder ``name`` of this user's alone, below the temporary folder; the same in every run.

    Raises:
        UserError: It cannot be made, or what lies there may be somebody else's.
    """
    root = _private_root()
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        if not _ours(root):
            raise UserError(f"{root} is not a folder of this user alone: remove it, or set TMPDIR.")
        (root / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{root / name} cannot be made ({error.strerror}): set TMPDIR to a folder that can be "
            "written to."
        ) from error
    return root / name


def found_private(name: str) -> Path | None:
    """The private folder ``name`` of an earlier call, if there is one."""
    with contextlib.suppress(UserError):
        root = _private_root()
        if (root / name).is_dir() and _ours(root):
            return root / name
    return None


def temporary() -> Path:
    """The temporary folder. Raises UserError where there is none."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise UserError(
            "There is no folder for temporary files that can be written to: set TMPDIR to one."
        ) from error


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that is gone afterwards. Raises UserError if it cannot be made."""
    temporary()
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def ensure_home() -> None:
    """Give a process without any home a private one, with a warning: libraries would make a folder
    named ``~`` in the working directory. Raises UserError if there is no place."""
    if is_homeless(Path(os.path.expanduser("~"))):
        cache = Cache("caches and settings", Path("~"), "set HOME", "home")
        os.environ["HOME"] = str(cache.folder())


def working_folder() -> Path:
    """The working directory. Raises UserError if it has been deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise UserError("The working folder has been deleted: go to another one.") from error


def expanded(path: str | Path) -> Path:
    """``path`` with its ``~`` replaced by the home folder. Raises UserError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"'{path}': there is no such home folder; give the whole path, or set HOME."
        ) from error


def kernels() -> Cache:
    """NVIDIA Warp's compiled kernels, in a folder for each of its versions."""
    base = Path(os.environ.get("WARP_CACHE_PATH", user_cache() / "warp"))
    if sys.platform == "win32" and "WARP_CACHE_PATH" not in os.environ:
        base = user_cache() / "NVIDIA/warp/Cache"
    try:
        version = metadata.version("warp-lang")
    except metadata.PackageNotFoundError:
        version = ""
    return Cache(
        "compiled kernels",
        base / version,
        "set WARP_CACHE_PATH to a folder that can be written to",
        "warp",
    )


def settle_kernels() -> None:
    """Choose the kernels' place for this process and those that it starts from now on.

    Warp reads the variable when it is initialised. Raises UserError if there is no place.
    """
    cache = kernels()
    if (folder := cache.folder()) != cache.usual:
        os.environ["WARP_CACHE_PATH"] = str(folder)


def for_others() -> dict[str, str]:
    """Environment variables for a program whose libraries would not find a place by themselves.

    Empty where they do. Raises UserError if there is no place.
    """
    cache = Cache(
        "caches of threestudio's libraries",
        user_cache(),
        "set XDG_CACHE_HOME to a folder that can be written to",
        "cache",
    )
    if (folder := cache.folder()) == cache.usual:
        return {}
    besides = {"MPLCONFIGDIR": folder / "matplotlib"}
    models = cache.usual / "huggingface"
    if models.is_dir():  # what has been downloaded can still be read
        besides["HF_HOME"] = models
    unset = {name: str(place) for name, place in besides.items() if name not in os.environ}
    return {**unset, "XDG_CACHE_HOME": str(folder)}


def _private_root() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return temporary() / f"threestudio-asd-{user}"


def _ours(folder: Path) -> bool:
    """Whether nobody else can have put anything there, in a temporary folder open to everyone."""
    status = folder.lstat()
    mine = not hasattr(os, "getuid") or (
        status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
    return stat.S_ISDIR(status.st_mode) and mine
