"""What a signal does in the blocks of the stop module."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from threestudio_asd import stop
from threestudio_asd.stop import Stopped, Watch, heeded, held

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers():
    """Every block puts back what it found."""
    before = [signal.getsignal(signum) for signum in SIGNALS]
    yield
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_heeded_signal_raises_the_exit_status(signum, status):
    with pytest.raises(Stopped) as caught, heeded():
        signal.raise_signal(signum)
    assert (caught.value.code, caught.value.signum) == (status, signum)
    assert isinstance(caught.value, SystemExit)


def test_a_watch_notes_the_first_signal_and_the_second_ends():
    seen = []
    with pytest.raises(Stopped, match="SIGHUP"), Watch(seen.append) as watch:
        signal.raise_signal(signal.SIGINT)
        assert watch.signum == signal.SIGINT
        time.sleep(stop.SAME_STOP_SECONDS)
        signal.raise_signal(signal.SIGHUP)
    assert seen == [signal.SIGINT]
    # Whoever presses Ctrl-C twice means it, however quickly.
    with pytest.raises(KeyboardInterrupt), Watch():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_a_message_that_cannot_be_written_ends_nothing():
    def tell(signum):
        raise OSError("the terminal is gone")

    with Watch(tell) as watch:
        signal.raise_signal(signal.SIGHUP)
    assert watch.signum == signal.SIGHUP


def test_what_is_held_is_done_before_the_signal_takes_effect():
    done = []
    with pytest.raises(Stopped), heeded():
        with held():
            signal.raise_signal(signal.SIGTERM)
            done.append("whole")
        done.append("this must not run")
    assert done == ["whole"]
    with Watch() as watch, held():  # a loop goes on after it
        signal.raise_signal(signal.SIGTERM)
        assert watch.signum is None
    assert watch.signum == signal.SIGTERM


def test_a_failure_in_what_is_held_does_not_lose_the_signal():
    with pytest.raises(Stopped) as caught, heeded(), held():
        signal.raise_signal(signal.SIGTERM)
        raise BrokenPipeError
    assert isinstance(caught.value.__context__, BrokenPipeError)


def test_other_threads_have_no_signals():
    found = []

    def work():
        with heeded(), Watch() as watch, held():
            found.append(signal.getsignal(signal.SIGTERM))
        found.append(watch.signum)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before, None]


def test_a_second_signal_ends_a_process_that_hangs_while_it_ends():
    code = (
        "import time\n"
        "from threestudio_asd.stop import heeded\n"
        "with heeded():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('ending', flush=True)\n"
        "        time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == "ready\n"
        p.send_signal(signal.SIGHUP)
        assert p.stdout.readline() == "ending\n"
        time.sleep(stop.SAME_STOP_SECONDS)
        p.send_signal(signal.SIGTERM)
        assert p.wait(timeout=10) == 143


def test_a_lost_reader_does_not_change_the_exit_status():
    code = (
        "import os, signal\n"
        "from threestudio_asd.stop import Watch\n"
        "with Watch() as watch:\n"
        "    print('never read')\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('nor this', flush=True)\n"
        "raise SystemExit(3)\n"
    )
    read, write = os.pipe()
    os.close(read)
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", code], stdout=write, env=buffered, timeout=60)
    os.close(write)
    assert done.returncode == 3


def test_what_fails_after_a_stop_is_the_stop():
    with pytest.raises(Stopped) as raised, heeded():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            raise OSError("the terminal is closed")
    assert raised.value.code == 129
    with pytest.raises(OSError), heeded():
        raise OSError
