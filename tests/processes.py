"""Python processes that need not import torch again: each is forked from one that has.

For tests of what commands do, not of how they start. They never see a GPU: it would not survive
the fork.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import forkserver, reduction
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parent.parent
# Not this package: it looks at its environment while it is imported.
PRELOADED = ["torch", "pytorch_lightning", "torchmetrics", "trimesh", "imageio", "rich.progress"]
PRELOADED += ["diffusers.models.autoencoders.autoencoder_kl", "diffusers.schedulers", "warp"]
PRELOADED += ["diffusers.models.unets.unet_2d_condition", "transformers", "peft", "accelerate"]
PRELOADED += ["omegaconf", "jaxtyping", "skimage.measure"]
_BARE = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Python:
    """What ``subprocess.Popen([sys.executable, *arguments], text=True)`` would be, with both its
    streams read here.

    Args:
        arguments: Those of python: ``-c CODE``, ``-m MODULE`` or a script, and its own.
        environment: Changes the one of this process.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] = {},
        start_new_session: bool = False,
    ) -> None:
        with mock.patch.dict(os.environ, _BARE):
            forkserver.ensure_running()
        streams = [os.pipe(), os.pipe()]
        whole = {**os.environ, "PYTHONPATH": str(ROOT), **_BARE, **environment}
        self._process = _context.Process(
            target=_live,
            args=(arguments, str(cwd or Path.cwd()), whole, start_new_session),
            kwargs={"streams": _Streams([there for _, there in streams])},
        )
        self._process.start()
        for _, there in streams:
            os.close(there)
        self.stdout, self.stderr = (open(here) for here, _ in streams)  # noqa: SIM115

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 120) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """All that it still says, once it has ended."""
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(self.stderr.read()), daemon=True)
        reader.start()
        late = threading.Timer(timeout, self._process.kill)
        late.start()
        told = self.stdout.read()
        reader.join()
        late.cancel()
        self.wait()
        return told, said[0]

    def __enter__(self) -> "Python":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._process.kill()
        self.wait()
        self.stdout.close()
        self.stderr.close()


def forked(function: Callable[[], object], timeout: float = 300) -> None:
    """Run ``function`` in a fork of this process, which then ends: what it changes ends with it.

    What it raises is raised here, with the fork's traceback as its text; so is a timeout.
    """
    receive, send = multiprocessing.Pipe(duplex=False)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        told: tuple[str, str] | None = None
        try:
            function()
        except BaseException as error:
            told = type(error).__name__, traceback.format_exc()
            if isinstance(error, pytest.skip.Exception):
                told = "skip", str(error)
        with contextlib.suppress(BaseException):
            send.send(told)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)
    send.close()
    late = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
    late.start()
    try:
        told = receive.recv()
    except EOFError:
        told = "EOFError", "the forked process died, or was killed for being late"
    finally:
        os.waitpid(pid, 0)
        late.cancel()
    if told is not None:
        if told[0] == "skip":
            pytest.skip(told[1])
        pytest.fail(told[1], pytrace=False)


class _Streams:
    """File descriptors that a process takes along."""

    def __init__(self, descriptors: list[int]) -> None:
        self.descriptors = descriptors

    def __reduce__(self) -> tuple:
        return list, ([reduction.DupFd(fd) for fd in self.descriptors],)


def run(*arguments: str, timeout: float = 120, **options: object) -> subprocess.CompletedProcess:
    """Until its end."""
    process = Python(*arguments, **options)
    told, said = process.communicate(timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, told, said)


def _live(
    arguments: tuple[str, ...],
    cwd: str,
    environment: dict[str, str],
    new_session: bool,
    streams: list,
) -> None:
    if new_session:
        os.setsid()
    for stream, number in zip(streams, (1, 2), strict=True):
        os.dup2(fd := stream.detach(), number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    what, *rest = arguments
    try:
        if what == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif what == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [what, *rest]
            runpy.run_path(what, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out
