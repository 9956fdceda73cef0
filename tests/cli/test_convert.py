"""Files that hold objects: refused with a command, and what that command makes of them."""

import os
import re
import shlex
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from threestudio_asd.cli.main import main
from threestudio_asd.errors import UserError
from threestudio_asd.studio.checkpoint.store import load_checkpoint
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.random_sd import write_random_sd

STATE = OrderedDict({"geometry.weight": torch.arange(4.0), "geometry.bias": torch.ones(1)})
GOOD = {"state_dict": STATE, "epoch": 1, "global_step": 7}


class Code:
    def __reduce__(self):
        return os.system, ("echo this must not run",)


class Callback:
    """As Lightning's checkpoints hold them."""

    def __init__(self):
        self.best = 1.0


OBJECTS = {
    "code": Code(),
    "callback": {Callback: {"best": 1}},
    "instance": Callback(),
    "numpy": np.float64(3.0),
    "array": np.zeros(3),
    "deep": [{"a": (Callback(),)}],
    "lambda's module": {"x": re.compile("a")},
}


def command(error):
    """The arguments of the command that a message names."""
    return shlex.split(str(error.value).partition("threestudio-asd ")[2])


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_refused_checkpoint_is_converted_by_the_command_that_is_named(tmp_path, capfd, kind):
    path = tmp_path / "it's old.ckpt"
    torch.save({**GOOD, "callbacks": OBJECTS[kind]}, path)
    with pytest.raises(UserError, match="more than tensors and plain values") as error:
        load_checkpoint(path)
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)
    assert main(command(error)) == 0
    said = capfd.readouterr()
    assert "left out: callbacks" in said.out and "must not run" not in said.out
    loaded = load_checkpoint(tmp_path / "it's old-plain.ckpt")
    assert loaded["global_step"] == 7 and "callbacks" not in loaded
    assert torch.equal(loaded["state_dict"]["geometry.weight"], torch.arange(4.0))


@pytest.mark.parametrize("key", ["ckpt_path", "state_dict"])
def test_a_refused_model_is_converted_and_used(tmp_path, capfd, key):
    folder = write_random_sd(tmp_path / "model")
    state = StableDiffusionTeacher.from_pretrained(write_random_sd(tmp_path / "b", seed=1)).unet
    state = state.state_dict()
    payload = {"state_dict": state, "callbacks": Callback()}
    if key != "state_dict":
        payload = {**state, "extra": Code()}
    torch.save(payload, tmp_path / "model.ckpt")
    load = StableDiffusionTeacher.from_pretrained
    with pytest.raises(UserError, match="more than tensors and plain values") as error:
        load(folder, checkpoint=tmp_path / "model.ckpt")
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)
    assert main(command(error)) == 0
    assert main(["convert", str(tmp_path / "model.ckpt"), str(tmp_path / "m.safetensors")]) == 0
    assert "must not run" not in capfd.readouterr().out
    assert set(load_file(tmp_path / "m.safetensors")) == set(state)
    for name in ("model-plain.ckpt", "m.safetensors"):
        teacher = load(folder, checkpoint=tmp_path / name)
        for weight, value in state.items():
            assert torch.equal(teacher.unet.state_dict()[weight], value)


def test_what_cannot_be_converted_is_told(tmp_path, capsys):
    module, damaged, new = tmp_path / "module.pt", tmp_path / "damaged.pt", tmp_path / "new.pt"
    torch.save(torch.nn.Linear(2, 2), module)
    damaged.write_bytes(b"\x80\x02nothing")
    for old, message in (
        (module, "no tensors outside of objects"),
        (damaged, "cannot be read"),
        (tmp_path / "none.pt", "no such file"),
    ):
        assert main(["convert", str(old), str(new)]) == 2
        assert message in capsys.readouterr().err
    torch.save({"x": torch.ones(1)}, new)
    assert main(["convert", str(new), str(new)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_damaged_model_file_is_told_without_a_librarys_advice(tmp_path):
    folder = write_random_sd(tmp_path / "model")
    (tmp_path / "page.ckpt").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="damaged") as error:
        StableDiffusionTeacher.from_pretrained(folder, checkpoint=tmp_path / "page.ckpt")
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)
