"""Files that are there whole or not at all, folders with one writer at a time, and full disks."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from threestudio_asd.errors import DiskFullError, UserError

# What a file system that answers so is like.
_FULL = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "has no more room for this user (quota)",
    errno.EFBIG: "takes no file of this size",
    errno.EROFS: "has become read-only",
}
_PROBE_BYTES = 1 << 20


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Yields whether this process is now the only one that has claimed ``folder``, until the block
    or the process ends, however it ends. The folder is made if need be.

    Raises:
        OSError: The folder cannot be written to, or its file system has no locks.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    except NotImplementedError as error:
        raise OSError(str(error)) from error
    try:
        yield True
    finally:
        lock.release()


def make_folder(folder: Path, remedy: str) -> Path:
    """``folder``, made if need be; UserError, which ends with the ``remedy``, if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; {remedy}.") from error
    return folder


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a path beside ``path``; what the block writes there becomes ``path`` at its end.

    Whatever kills the process meanwhile, ``path`` is what it was before or the complete new file.
    If the block raises, nothing has changed. The folder is made if need be.

    Raises:
        DiskFullError: There is no room for it.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with room_for(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a new folder beside ``path``; with what the block puts there it becomes ``path``.

    Whatever kills the process meanwhile, ``path`` is complete or not there.

    Raises:
        DiskFullError: There is no room for it.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with room_for(path):
            partial.mkdir(parents=True)
            yield partial
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def room_for(path: str | os.PathLike) -> Iterator[None]:
    """For a block that writes ``path``: what any library raises for a full disk is one error.

    Some libraries say that a stream or an encoder failed, and not why; so the disk is asked.

    Raises:
        DiskFullError: There is no room for it; the message names the file and the file system.
    """
    path = Path(path)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        folders = (path.parent, Path(tempfile.gettempdir()))  # encoders write there first
        found = full_disk(error, *folders) or next(filter(None, map(_probed, folders)), None)
        if found is None:
            raise
        raise DiskFullError(f"no room for {path}: {found}.") from error


@contextmanager
def written_in_place(path: str | os.PathLike) -> Iterator[None]:
    """For a block that writes ``path`` itself: if there is no room for it, no part of it is left.

    Raises:
        DiskFullError: There is no room for it.
    """
    try:
        with room_for(path):
            yield
    except DiskFullError:
        Path(path).unlink(missing_ok=True)
        raise


def full_disk(error: BaseException, *folders: Path) -> str | None:
    """Which file system is full, as a clause, if ``error`` or what led to it says that one is.

    Args:
        folders: where it may be, if the error does not tell.
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        if isinstance(error, DiskFullError):
            return str(error).rstrip(".")
        # Libraries in other languages give the system's text without its number.
        number = error.errno if isinstance(error, OSError) else None
        texts = (n for n in _FULL if os.strerror(n) in str(error))
        if number := number if number in _FULL else next(texts, None):
            if isinstance(name := getattr(error, "filename", None), str):
                return _described(Path(name).parent, number)
            probed = next(filter(None, map(_probed, folders)), None)
            return probed or _described(folders[0] if folders else Path.cwd(), number)
        error = error.__cause__ or error.__context__
    return None


def _probed(folder: Path) -> str | None:
    """The error that writing a small file to ``folder`` meets, if the disk is full."""
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"0" * _PROBE_BYTES)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return _described(folder, error.errno) if error.errno in _FULL else None
    return None


def _described(folder: Path, number: int) -> str:
    mount = folder.resolve()
    while not mount.is_mount() and mount != mount.parent:
        mount = mount.parent
    left = ""
    if number == errno.ENOSPC and hasattr(os, "statvfs"):
        state = os.statvfs(mount)
        free, total = (state.f_frsize * n / 1e6 for n in (state.f_bavail, state.f_blocks))
        left = f" ({free:,.0f} of {total:,.0f} MB free)"
        if state.f_files and not state.f_favail:
            left = " (it can hold no more files: no inodes left)"
    return f"the file system at {mount} {_FULL[number]}{left}"
