"""benchmarks/gpu.py: parts with limits of their own, a report that is gone on with, and its clocks.

What only a GPU can tell is measured there; here the same parts run small on the CPU.
"""

import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Of the measurements, by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return lambda name: importlib.import_module(f"gpu_parts.{name}")


def gpu(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--reduced"]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "--out", str(out), *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_parts_are_measured_once_and_each_has_its_limit(tmp_path):
    out = tmp_path / "gpu.json"
    chosen = ("kernels", "raster", "scenes", "waits", "step-fp32")
    run = gpu(out, "--parts", *chosen)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(out.read_text())
    found = report["parts"]
    assert tuple(found) == chosen and report["machine"]["reduced"] is True
    assert all(part["seconds"] > 0 and "error" not in part for part in found.values())
    errors = [row["largest_relative_error"] for row in found["kernels"]["milliseconds"].values()]
    assert len(errors) == 11 and max(errors) < 1e-4
    for name in ("nerf, ASD", "nerf, SDS", "geometry, ASD"):
        assert found["scenes"][name]["iterations_per_second"] > 0
        assert 0 < found["scenes"][name]["share_outside_unet_and_vae"] < 1
    assert found["waits"]["trainings"] is None and "CUDA" in found["waits"]["reason"]
    assert found["step-fp32"]["perp_neg"]["ratio"] > 0

    # A second call keeps these; one that runs past its limit stops none of the others.
    run = gpu(out, "--parts", "kernels", "step-fp16", "step-bf16", "--limit", "0.1")
    assert run.returncode == 1
    assert "kernels: there already" in run.stdout
    again = json.loads(out.read_text())["parts"]
    assert {name: again[name] for name in chosen} == found
    assert again["step-fp16"]["error"] == again["step-bf16"]["error"] == "ran past 0.1 s"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "gpu.json",
        "gpu.json.step-bf16.log",
        "gpu.json.step-fp16.log",
    ]


def test_waits_are_counted_by_our_innermost_line(module):
    """In every thread and however often, and other warnings are let through."""
    from threestudio_asd import errors

    waits = module("waits")
    line = f"import warnings\ndef wait():\n    warnings.warn({waits.WAIT!r})"
    ours, others = {}, {}
    exec(compile(line, errors.__file__, "exec"), ours)
    exec(compile(line, os.path.join(os.path.dirname(torch.__file__), "x.py"), "exec"), others)
    through = {"wait": others["wait"]}
    exec(compile("def call():\n    wait()", errors.__file__, "exec"), through)
    found = Counter()
    with pytest.warns(UserWarning, match="another"):
        with waits.recorded_waits(found) as listen:
            warnings.simplefilter("ignore")
            listen()
            for _ in range(3):
                ours["wait"]()
            through["call"]()
            others["wait"]()
        warnings.warn("another", stacklevel=1)
    assert found.pop(("threestudio_asd/errors.py:3", None)) == 3
    assert found.pop(("threestudio_asd/errors.py:2", "torch/x.py:3")) == 1
    assert list(found.values()) == [1]


@pytest.mark.slow
def test_waits_are_those_of_a_training_step(module, monkeypatch):
    """With warnings in the place of a GPU's: one for each call of the UNet, two in a step."""
    from threestudio_asd.teachers.unet import FrozenUNet

    waits = module("waits")
    modes, predict = [], FrozenUNet.predict

    def waiting(*args):
        if modes[-1:] == ["warn"]:
            warnings.warn(waits.WAIT, stacklevel=1)
        return predict(*args)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(FrozenUNet, "predict", waiting)
    setup = waits.Setup("cpu", reduced=True, tell=print)
    found = waits.count_waits(setup, waits.images, warm=1, counted=2)
    assert modes == ["warn", "default", "default"]
    assert found["per_step"] == 2.0
    assert all(row["line"].startswith("threestudio_asd/") for row in found["lines"])
    assert {row["in"].rpartition("/")[2].partition(":")[0] for row in found["lines"]} == {
        "test_benchmarks_gpu.py"
    }


def test_the_networks_time_is_the_union_of_their_calls(module):
    times = module("network_time")
    networks = times.NetworkTime(times.Marks(cuda=False))
    networks._spans = [[11.0, 12.0], [11.5, 13.0], [14.0, 15.0], [11.2, 11.3]]
    assert networks.seconds(10.0) == pytest.approx(3.0)


@pytest.mark.parametrize("name", ["encoder", "critic"])
def test_backward_passes_are_part_of_the_networks_time(module, monkeypatch, name):
    """A sleep in the backward pass of a call counts, one beside it does not."""
    from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
    from threestudio_asd.teachers.unet import FrozenUNet

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            time.sleep(0.2)
            return grad

    weight = torch.nn.Parameter(torch.ones(2))
    net = type("Net", (), {"unet": torch.nn.Linear(2, 2)})()
    net.unet.weight, net.unet.bias = weight, None
    monkeypatch.setattr(StableDiffusionTeacher, "encode", lambda self, x: Slow.apply(x))
    monkeypatch.setattr(FrozenUNet, "predict", lambda self, x: Slow.apply(x * self.unet.weight))
    times = module("network_time")
    marks = times.Marks(cuda=False)
    with times.NetworkTime(marks) as networks:
        networks.on, origin = True, marks.now()
        x = torch.ones(2, requires_grad=True)
        if name == "encoder":
            out = StableDiffusionTeacher.encode(net, Slow.apply(x))
        else:
            out = FrozenUNet.predict(net, Slow.apply(x).detach())
        Slow.apply(out).sum().backward()
        assert networks.seconds(origin) == pytest.approx(0.2, abs=0.1)


def test_pytests_report_is_counted(module):
    from xml.etree import ElementTree

    report = ElementTree.fromstring(
        "<testsuites><testsuite><testcase classname='a' name='x'/><testcase classname='a' name='y'>"
        "<failure message='assert 1 == 2&#10;more'/></testcase><testcase classname='a' name='z'>"
        "<skipped/></testcase></testsuite></testsuites>"
    )
    assert module("suite")._counted(report) == {
        "passed": 1,
        "skipped": 1,
        "failed": {"a::y": ["assert 1 == 2"]},
    }
