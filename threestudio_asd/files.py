"""Files that are there whole or not at all, and folders with one writer at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a path beside ``path``; what the block writes there becomes ``path`` at its end.

    Whatever kills the process meanwhile, ``path`` is what it was before or the complete new file.
    If the block raises, nothing has changed. The folder is made if need be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
