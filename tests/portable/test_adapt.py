"""From CUDA to the CPU, on a threestudio that has only what is adapted."""

import sys
from types import ModuleType

import pytest
import pytorch_lightning
import torch

from threestudio_asd.portable import adapt_to_cpu


@pytest.fixture
def threestudio(monkeypatch):
    """Fake modules; afterwards torch and Lightning are as before."""
    names = ("", ".utils", ".utils.misc", ".utils.base", ".models", ".models.networks")
    modules = {name: ModuleType("threestudio" + name) for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, "threestudio" + name, module)
    said = []
    modules[""].info = said.append
    modules[""].said = said
    modules[".utils.misc"].get_device = lambda: torch.device("cuda:0")
    modules[".utils.base"].get_device = modules[".utils.misc"].get_device
    modules[".utils.base"].get_rank = modules[".models.networks"].get_rank = lambda: 0
    monkeypatch.setattr(torch.cuda, "device", torch.cuda.device)
    monkeypatch.setattr(pytorch_lightning, "Trainer", pytorch_lightning.Trainer)
    return modules


def test_everything_runs_on_the_cpu(threestudio):
    adapt_to_cpu()
    for name in (".utils.misc", ".utils.base"):
        assert threestudio[name].get_device() == torch.device("cpu")
    networks = threestudio[".models.networks"]
    with torch.cuda.device(networks.get_rank()):
        assert torch.zeros(1, device=networks.get_rank()).device.type == "cpu"
    assert threestudio[".utils.base"].get_rank() == 0


@pytest.mark.parametrize(("asked", "used"), [("16-mixed", "32-true"), ("64-true", "64-true")])
def test_trainer_asks_for_the_cpu(threestudio, asked, used):
    adapt_to_cpu()
    trainer = pytorch_lightning.Trainer(
        accelerator="gpu", devices=-1, precision=asked, logger=False, enable_checkpointing=False
    )
    assert isinstance(trainer.accelerator, pytorch_lightning.accelerators.CPUAccelerator)
    assert trainer.precision == used
    assert len(threestudio[""].said) == (asked != used)


def test_comes_after_the_import():
    if "threestudio" not in sys.modules:
        with pytest.raises(RuntimeError, match="after import threestudio"):
            adapt_to_cpu()
