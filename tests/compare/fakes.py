"""What tests of the grid share: training that takes no time, and a look at processes."""

import os
import signal
import time
from pathlib import Path


def outcome():
    """Grey pictures."""
    import torch

    from threestudio_asd.compare.run.train import Outcome

    grey = torch.full((2, 3, 64, 64), 0.5)
    return Outcome(
        images=grey,
        halfway=grey,
        opacity=None,
        mesh=None,
        turntable=None,
        weights={"state_dict": {}, "epoch": 0, "global_step": 2},
        seconds=0.1,
        unet_evaluations=3.0,
        unet_evaluations_in_all=12,
        unet_evaluations_with_gradient=4,
        peak_memory_mb=None,
        nonfinite_steps=0,
        critic_error=None,
    )


def train(cfg, folder, on_step=lambda step: None):
    """In processes: scale ``KILLED_AT`` kills its process, ``SLOW_AT`` takes minutes,
    ``WRONG_AT`` raises an error."""
    scale = float(cfg.system.guidance.guidance_scale)
    if scale == float(os.environ.get("KILLED_AT", "nan")):
        os.kill(os.getpid(), signal.SIGKILL)
    if scale == float(os.environ.get("SLOW_AT", "nan")):
        time.sleep(300)
    if scale == float(os.environ.get("WRONG_AT", "nan")):
        raise ValueError("a wrong cell")
    return outcome()


# The four cells of the fixture "small".
SMALL = ["--steps", "2", "--scales", "1", "7.5", "--prompts", "a red mug", "--seeds", "0"]
SMALL += ["--methods", "SDS", "ASD -0.75"]


def start_compare(out, *flags, **environment):
    """The command with :func:`train`, in a process group of its own."""
    from processes import ROOT, Python

    plugins = ("threestudio_asd.guidance", "threestudio_asd.systems", "fake_training")
    code = "import sys; from threestudio_asd.cli import compare; "
    code += f"sys.exit(compare.main({[*flags, '--out', str(out)]!r}, {plugins!r}))"
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return Python("-c", code, environment=environment, start_new_session=True)


def alive(pid):
    try:
        os.kill(pid, 0)
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def children(pid):
    """The processes that ``pid`` has started and not yet buried."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()]


def wait_for(condition, seconds=120):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "it did not come"
        time.sleep(0.01)
