"""Training of the embedded models: a signal saves the step, the same command goes on."""

import signal
import time

import pytest
import torch
from processes import Python

from threestudio_asd import stop
from threestudio_asd.tiny.dataset import Renders

STEPS = 26


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    """Noise, where the stages look for what they have rendered before."""
    path = tmp_path_factory.mktemp("renders") / "teacher-renders.pt"
    images = torch.randint(256, (48, 3, 64, 64), dtype=torch.uint8)
    none = torch.zeros(48, dtype=torch.long)
    Renders(images, none, none, none, none.bool()).save(path)
    return path


def train(work, renders):
    """A process that trains the autoencoder in the folder ``work``."""
    work.mkdir(exist_ok=True)
    (work / renders.name).write_bytes(renders.read_bytes())
    stage = ["threestudio_asd.tiny.train", "vae", "--steps", str(STEPS), "--batch", "4"]
    return Python("-m", *stage, "--work", str(work))


def state(work):
    return torch.load(work / "vae.ckpt", weights_only=True)


def read_until(stream, start):
    line = "?"
    while line and not line.startswith(start):
        line = stream.readline()
    assert line, f"no line {start}"


@pytest.mark.slow
def test_stopped_and_gone_on_with_equals_uninterrupted(tmp_path, renders):
    whole, work = tmp_path / "whole", tmp_path / "stopped"
    with train(whole, renders) as process:
        assert process.wait() == 0
    with train(work, renders) as process:
        read_until(process.stdout, "vae 20/")
        process.send_signal(signal.SIGTERM)
        told = process.stdout.read()
    assert process.returncode == 143, told
    step = state(work)["step"]
    assert 20 <= step < STEPS
    assert f"Saved {work}/vae.ckpt at step {step}; the same command goes on." in told
    assert not (work / "tiny-shapes").exists()
    with train(work, renders) as process:
        assert process.wait() == 0
    left, right = state(work), state(whole)
    assert left["step"] == right["step"] == STEPS
    for part in ("model", "average"):
        for key, value in left[part].items():
            assert torch.equal(value, right[part][key]), (part, key)


def loop(folder):
    """A process in the loop; its steps but the first take two seconds."""
    code = (
        "import sys, time, torch\n"
        "from pathlib import Path\n"
        "from threestudio_asd.tiny.train.loop import run\n"
        "model = torch.nn.Linear(1, 1)\n"
        "def draw(step, generator):\n"
        "    print('step', step, flush=True)\n"
        "    time.sleep(2 if step else 0)\n"
        "    return (torch.ones(1),)\n"
        "run('toy', Path(sys.argv[1]), model, draw, 9, 0.1, 0, save_every=1)\n"
    )
    return Python("-c", code, str(folder))


@pytest.mark.parametrize(("name", "status"), [("SIGHUP", 129), ("SIGINT", 130)])
def test_other_signals_save_the_step_as_well(tmp_path, name, status):
    with loop(tmp_path) as process:
        read_until(process.stdout, "step 1")
        process.send_signal(getattr(signal, name))
        assert process.wait(timeout=60) == status
    assert torch.load(tmp_path / "toy.ckpt", weights_only=True)["step"] == 2


def test_a_second_signal_ends_at_once(tmp_path):
    with loop(tmp_path) as process:
        read_until(process.stdout, "step 1")
        process.send_signal(signal.SIGTERM)
        read_until(process.stdout, "SIGTERM: training ends after this step.")
        time.sleep(stop.SAME_STOP_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert torch.load(tmp_path / "toy.ckpt", weights_only=True)["step"] == 1
