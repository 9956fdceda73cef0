"""Shape checking is on in tests: every jaxtyping annotation of the package is enforced.

Where beartype, which the tests' requirements include, is missing, the header says that it is off.
"""

import importlib.util
import logging
import os
import random
import signal

import pytest
from jaxtyping import install_import_hook

# Started by nohup, processes of the tests would not hear of a closed terminal either.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# Installed at import time of conftest, before any test module imports the package.
CHECKED = importlib.util.find_spec("beartype") is not None
if CHECKED:
    _hook = install_import_hook("threestudio_asd", "beartype.beartype")
    _hook.__enter__()


def pytest_report_header():
    return None if CHECKED else "beartype is not installed: shapes are not checked"


def pytest_collection_modifyitems(items):
    """Long tests come first: begun last, one would keep one worker busy and the others waiting."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """A test of the pretended device runs in a fork: the device is registered once in a process,
    for good, and before autograd looks for devices at its first backward pass. So it cannot follow
    in a process that has run one: these tests are a run of their own (``make test``)."""
    if pyfuncitem.get_closest_marker("on_device") is None:
        return None
    from pretended import import_all, register
    from processes import forked

    import_all()  # once, here

    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    def call():
        import torch

        torch.set_num_threads(1)  # those of the process that was forked are not here
        register()
        pyfuncitem.obj(**arguments)

    forked(call)
    return True


@pytest.fixture(autouse=True)
def as_in_a_new_process():
    """No test depends on those that its process ran before: what commands set for a whole process,
    also in a module's fixture, is as at its start, and random numbers start anew."""
    import numpy as np
    import torch

    from threestudio_asd import parallel

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    parallel.set_pieces(1)
    parallel.set_threads(None)
    logger = logging.getLogger("threestudio_asd")
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    logger.handlers.clear()


@pytest.fixture(scope="session")
def random_sd(tmp_path_factory):
    """The folder of a small random model in Stable Diffusion's format; no test changes it."""
    from threestudio_asd.tiny.random_sd import write_random_sd

    return write_random_sd(tmp_path_factory.mktemp("sd"))
