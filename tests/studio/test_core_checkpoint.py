"""Checkpoints: whole or not at all, and no code."""

import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from threestudio_asd.errors import UserError
from threestudio_asd.studio.base import BaseModule
from threestudio_asd.studio.checkpoint import store as ck

STATE = {"geometry.weight": torch.ones(2), "geometry.bias": torch.ones(1), "other.x": torch.ones(3)}
GOOD = {"state_dict": STATE, "epoch": 1, "global_step": 7}


class Code:
    def __reduce__(self):
        return os.system, ("echo this must not run",)


class Unwritable:
    def __reduce__(self):
        raise RuntimeError("cannot be written")


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.ckpt"
    ck.save_atomically(GOOD, path)
    return path


def test_round_trip(good):
    loaded = ck.load_checkpoint(good)
    assert loaded["global_step"] == 7
    assert torch.equal(loaded["state_dict"]["other.x"], torch.ones(3))


def test_a_failed_write_leaves_the_old_file(good):
    before = good.read_bytes()
    with pytest.raises(RuntimeError, match="cannot be written"):
        ck.save_atomically({**GOOD, "x": Unwritable()}, good)
    assert good.read_bytes() == before
    assert [p.name for p in good.parent.iterdir()] == ["good.ckpt"]


def test_a_write_is_complete_before_the_name_appears(good, monkeypatch):
    seen = []
    replace = os.replace
    monkeypatch.setattr(
        ck.os, "replace", lambda a, b: (seen.append(ck.load_checkpoint(a)), replace(a, b))
    )
    ck.save_atomically({**GOOD, "global_step": 8}, good)
    assert seen[0]["global_step"] == 8


def test_bad_checkpoints(tmp_path, good):
    missing, code, cut, text, other = (tmp_path / f"{n}.ckpt" for n in "abcde")
    torch.save({**GOOD, "x": Code()}, code)
    cut.write_bytes(good.read_bytes()[:-200])
    text.write_text("not a checkpoint")
    torch.save({"weights": 1}, other)
    for path, message in (
        (missing, "does not exist"),
        (tmp_path, "does not exist"),
        (code, "could run code"),
        (cut, "damaged or incomplete"),
        (text, "damaged or incomplete"),
        (other, "lacks state_dict"),
    ):
        with pytest.raises(UserError, match=message):
            ck.load_checkpoint(path)


@dataclass
class Settings:
    betas: Any = None


def test_a_checkpoint_with_configs_gives_its_weights(tmp_path):
    """As threestudio's, whose optimiser states hold lists of the config."""
    path = tmp_path / "theirs.ckpt"
    cfg = OmegaConf.structured(Settings(betas=[0.9, 0.99]))
    parameter = torch.nn.Parameter(torch.arange(4.0)[::2])
    state = OrderedDict({**STATE, "half": torch.ones(2, dtype=torch.float16), "p": parameter})
    torch.save({**GOOD, "state_dict": state, "optimizer_states": [{"betas": cfg.betas}]}, path)
    loaded = ck.load_checkpoint(path)
    assert sorted(loaded) == ["epoch", "global_step", "state_dict"]
    assert loaded["global_step"] == 7
    for name, value in state.items():
        assert torch.equal(loaded["state_dict"][name], value)
    assert loaded["state_dict"]["half"].dtype == torch.float16


def test_of_a_checkpoint_with_configs_and_code_nothing_runs(tmp_path, capfd):
    path = tmp_path / "bad.ckpt"
    cfg = OmegaConf.create({"betas": [0.9]})
    torch.save({**GOOD, "optimizer_states": [cfg.betas], "x": Code()}, path)
    assert ck.load_checkpoint(path)["epoch"] == 1
    torch.save({"optimizer_states": [cfg.betas], **GOOD, "epoch": Code()}, path)
    with pytest.raises(UserError, match="lacks state_dict, epoch"):
        ck.load_checkpoint(path)
    assert "this must not run" not in capfd.readouterr().out


@pytest.mark.parametrize("keep", [0, 1, 100, 600])
def test_truncated_anywhere(good, keep):
    good.write_bytes(good.read_bytes()[:keep])
    with pytest.raises(UserError, match="damaged or incomplete"):
        ck.load_checkpoint(good)


def test_parts_of_a_checkpoint(good):
    state, epoch, step = ck.load_module_weights(good, module_name="geometry")
    assert (sorted(state), epoch, step) == (["bias", "weight"], 1, 7)
    state, _, _ = ck.load_module_weights(good, ignore_modules=["geometry"])
    assert sorted(state) == ["other.x"]
    with pytest.raises(UserError, match=r'no module "geo"; it has geometry, other'):
        ck.load_module_weights(good, module_name="geo")
    with pytest.raises(UserError, match="exclude each other"):
        ck.load_module_weights(good, module_name="a", ignore_modules=["b"])


def test_compatible_with_own_weights():
    own = {k: v for k, v in STATE.items() if k.startswith("geometry")}
    assert ck.require_compatible(STATE, own, "p") == ["other.x"]
    bigger = {**own, "geometry.bias": torch.ones(2)}
    for state, mine, message in (
        (own, STATE, "other.x is missing"),
        (STATE, bigger, r"geometry.bias has shape \(1,\), the config makes \(2,\)"),
        ({**own, "geometry.new": torch.ones(1)}, own, "geometry.new has no place"),
    ):
        with pytest.raises(UserError, match=message):
            ck.require_compatible(state, mine, "p")


def test_last_trial(tmp_path):
    for name in ("a_mug@1", "a_mug@2", "a_cup@3"):
        (tmp_path / name / "ckpts").mkdir(parents=True)
    (tmp_path / "a_mug@2" / "ckpts" / "last.ckpt").touch()
    found = ck.find_last_path(f"{tmp_path}/a mug@LAST/ckpts/last.ckpt")
    assert found == f"{tmp_path}/a_mug@2/ckpts/last.ckpt"
    assert ck.find_last_path("x/y.ckpt") == "x/y.ckpt"
    assert ck.find_last_path(None) is None
    with pytest.raises(UserError, match="run the earlier stage first"):
        ck.find_last_path(f"{tmp_path}/a_bowl@LAST/ckpts/last.ckpt")
    with pytest.raises(UserError, match="did the earlier stage finish"):
        ck.find_last_path(f"{tmp_path}/a_cup@LAST/ckpts/last.ckpt")


class Net(BaseModule):
    def configure(self):
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.bias = torch.nn.Parameter(torch.zeros(1))
        self.loaded_at = None

    def update_step(self, epoch, global_step, on_load_weights=False):
        self.loaded_at = (epoch, global_step, on_load_weights)


def test_module_loads_its_weights_from_a_trial(good, tmp_path):
    net = Net({"weights": f"{good}:geometry"})
    assert torch.equal(net.weight, torch.ones(2))
    assert net.loaded_at == (1, 7, True)
    with pytest.raises(UserError, match=r"path/to/file\.ckpt:module_name"):
        Net({"weights": str(good)})
    with pytest.raises(UserError, match="do not fit Net"):
        Net({"weights": f"{good}:other"})
