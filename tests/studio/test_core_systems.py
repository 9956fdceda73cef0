"""Systems without a launcher: optimisers, weights, updates, modes, sections of a config."""

from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from threestudio_asd import log
from threestudio_asd.errors import ConfigKeyError, UserError
from threestudio_asd.studio.base import BaseModule, BaseObject, Updateable
from threestudio_asd.studio.checkpoint.store import save_atomically
from threestudio_asd.studio.run import callbacks
from threestudio_asd.studio.run.trainer import check_arguments, clear_errors
from threestudio_asd.studio.systems.base import BaseSystem
from threestudio_asd.studio.systems.finite import FiniteStepsMixin
from threestudio_asd.studio.systems.lift3d import BaseLift3DSystem
from threestudio_asd.studio.systems.optimizers import parse_optimizer, parse_scheduler
from threestudio_asd.studio.systems.seeding import seed_step


class Net(BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        width: int = 2

    def configure(self):
        self.encoding = nn.Linear(self.cfg.width, 2)
        self.scale = nn.Parameter(torch.ones(1))
        self.steps = []

    def update_step(self, epoch, global_step, on_load_weights=False):
        self.steps.append((epoch, global_step, on_load_weights))


class System(BaseSystem):
    def configure(self):
        self.geometry = Net()
        self.background = nn.Linear(2, 2)


def optimizer(**section):
    return OmegaConf.create({"name": "AdamW", "args": {"lr": 0.1}, **section})


def test_only_listed_modules_are_trained():
    system = System({})
    params = {"geometry.encoding": {"lr": 0.01}, "geometry.scale": {"lr": 0.02}}
    groups = parse_optimizer(optimizer(params=params), system).param_groups
    assert [(g["name"], g["lr"], len(g["params"])) for g in groups] == [
        ("geometry.encoding", 0.01, 2),
        ("geometry.scale", 0.02, 1),
    ]
    (everything,) = parse_optimizer(optimizer(), system).param_groups
    assert len(everything["params"]) == len(list(system.parameters()))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "Adamm"}, "did you mean Adam"),
        ({"name": "step"}, r"optimizer\.name=step"),
        ({"args": {"lrr": 1}}, "AdamW does not accept this.*lrr"),
        ({"params": {"geometri": {"lr": 1}}}, "did you mean geometry"),
        ({"params": {"geometry.encoder": {"lr": 1}}}, "did you mean encoding"),
        ({"params": {"seed": {"lr": 1}}}, "name a module or parameter"),
    ],
)
def test_bad_optimizers(section, message):
    with pytest.raises(UserError, match=message):
        parse_optimizer(optimizer(**section), System({}))


def learning_rates(section, steps):
    weight = nn.Parameter(torch.ones(1))
    sgd = torch.optim.SGD([weight], lr=1.0)
    made = parse_scheduler(OmegaConf.create(section), sgd)
    rates = []
    for _ in range(steps):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        made["scheduler"].step()
    return made["interval"], rates


HALF = {"name": "ConstantLR", "args": {"factor": 0.5, "total_iters": 100}}
DECAY = {"name": "ExponentialLR", "args": {"gamma": 0.1}}


def test_schedulers():
    assert learning_rates({**DECAY, "interval": "step"}, 3) == (
        "step",
        pytest.approx([1, 0.1, 0.01]),
    )
    assert learning_rates(DECAY, 1)[0] == "epoch"
    sequence = {"name": "SequentialLR", "schedulers": [HALF, DECAY], "milestones": [2]}
    assert learning_rates(sequence, 4)[1] == pytest.approx([0.5, 0.5, 1.0, 0.1])
    chain = {"name": "ChainedScheduler", "schedulers": [HALF, DECAY]}
    assert learning_rates(chain, 3)[1] == pytest.approx([0.5, 0.05, 0.005])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "ExponentialR"}, "did you mean ExponentialLR"),
        ({**DECAY, "interval": "hour"}, '"epoch" or "step"'),
        ({"name": "ExponentialLR", "args": {"gama": 1}}, "ExponentialLR does not accept this"),
    ],
)
def test_bad_schedulers(section, message):
    with pytest.raises(UserError, match=message):
        learning_rates(section, 1)


def test_weights_of_an_earlier_trial(tmp_path):
    source = System({})
    path = tmp_path / "last.ckpt"
    state = {"state_dict": source.state_dict(), "epoch": 2, "global_step": 9}
    save_atomically(state, path)
    system = System({"weights": str(path), "weights_ignore_modules": ["background"]})
    assert torch.equal(system.geometry.encoding.weight, source.geometry.encoding.weight)
    assert not torch.equal(system.background.weight, source.background.weight)
    assert system.geometry.steps == [(2, 9, True)]

    class Wider(System):
        def configure(self):
            super().configure()
            self.background = nn.Linear(3, 3)

    with pytest.raises(UserError, match="weights_ignore_modules"):
        Wider({"weights": str(path)})


def test_status_of_a_resumed_evaluation():
    system = System({})
    assert (system.true_global_step, system.C([0, 1.0, 2.0, 10])) == (0, 1.0)
    system.set_resume_status(3, 5)
    assert (system.true_current_epoch, system.true_global_step) == (3, 5)
    assert system.C([0, 1.0, 2.0, 10]) == 1.5


def test_updates_reach_public_attributes_once():
    calls = []

    class Part(BaseObject):
        def configure(self, name):
            self.name = name

        def update_step(self, epoch, global_step, on_load_weights=False):
            calls.append((self.name, global_step))

        def update_step_end(self, epoch, global_step):
            calls.append((self.name, "end"))

    class Whole(Part):
        def configure(self, name):
            super().configure(name)
            self.part = Part(None, "part")
            self._private = Part(None, "private")
            self.other = 3

        @property
        def alias(self):
            return self.part

    whole = Whole(None, "whole")
    whole.do_update_step(0, 7)
    whole.do_update_step_end(0, 7)
    assert calls == [("part", 7), ("whole", 7), ("part", "end"), ("whole", "end")]
    system = System({})
    system.do_update_step(0, 4)
    assert system.geometry.steps == [(0, 4, False)]
    assert isinstance(system, Updateable)


def test_modes_survive_a_validation():
    class Renderer(nn.Module):
        randomized = True

        def train(self, mode=True):
            self.randomized = mode
            return super().train(mode)

    system = System({})
    system.renderer = Renderer()
    system.teacher = nn.Dropout().eval()
    system.on_validation_model_eval()
    assert not system.renderer.randomized and not system.geometry.training
    system.on_validation_model_train()
    assert system.renderer.randomized and system.geometry.training
    assert not system.teacher.training


@pytest.mark.parametrize("scaler", [None, object()])
def test_a_loss_scaler_sees_every_backward_pass(scaler):
    class Steps(FiniteStepsMixin, nn.Module):
        trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
        global_step = 0

    steps = Steps()
    steps.weight = nn.Parameter(torch.ones(2))
    steps.backward(steps.weight.sum() * float("nan"))
    assert (steps.weight.grad is not None) == (scaler is not None)
    assert steps.nonfinite_steps == 1
    steps.zero_grad()
    steps.backward(steps.weight.sum())
    assert steps.weight.grad.tolist() == [1, 1]
    assert (steps.nonfinite_steps, steps.nonfinite_total) == (0, 1)


class Logging(BaseSystem):
    """Logs numbers of several kinds; its third batch has no loss."""

    def configure(self):
        self.net = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        value = batch.sum()
        self.log("train/sum", value)
        value += 1  # what was logged stays
        self.log("train/half", (value / 3).half())
        self.log("train/count", torch.tensor(2**20 + 1))
        self.log("train/number", 0.1)
        self.log("train/mean", value, on_step=False, on_epoch=True)
        self.log("train/sum", value)  # the last one counts
        self.log("train/last", value)
        self.log("train/last", -1.0)
        return None if batch_idx == 2 else {"loss": self.net(batch).sum()}


def logged(system, monkeypatch, values):
    """The values of every step, and how often a tensor of several was copied to the CPU in each."""
    system.cfg.optimizer = optimizer()
    copies, steps, cpu = [], [], torch.Tensor.cpu

    def counted(tensor):
        copies.append(tensor.shape)
        return cpu(tensor)

    class Look(pl.Callback):
        def on_train_batch_start(self, *args):
            copies.clear()

        def on_train_batch_end(self, trainer, system, *args):
            found = {k: v.item() for k, v in trainer.callback_metrics.items() if "train/" in k}
            steps.append((found, len(copies)))

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, callbacks=[Look()], **quiet)
    data = torch.utils.data.DataLoader(torch.tensor(values), batch_size=None)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "cpu", counted)
        trainer.fit(system, data)
    return steps, {k: v.item() for k, v in trainer.callback_metrics.items()}


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_logged_values_cross_together_and_unchanged(monkeypatch):
    steps, final = logged(Logging({}), monkeypatch, [[1.0, 2.0], [4.0, 5.0], [7.0, 8.0]])
    for (found, copies), total in zip(steps[:2], (4.0, 10.0), strict=True):
        assert copies == 1
        assert found["train/sum"] == total
        assert found["train/half"] == torch.tensor(total / 3).half().item()
        assert found["train/count"] == 2**20 + 1
        assert found["train/last"] == -1.0
        assert found["train/number"] == torch.tensor(0.1).item()
    assert final["train/sum"] == 16.0  # of the step without a loss
    assert final["train/mean"] == 10.0


@pytest.mark.filterwarnings("ignore")
def test_a_log_that_lightning_refuses_is_refused(monkeypatch):
    class Wrong(Logging):
        def training_step(self, batch, batch_idx):
            self.log("train/two", batch)
            return {"loss": self.net(batch).sum()}

    with pytest.raises(ValueError, match=r"train/two.*single element"):
        logged(Wrong({}), monkeypatch, [[1.0, 2.0]])


def test_random_numbers_depend_on_seed_and_batch_only():
    def draw(seed, batch):
        seed_step(seed, batch)
        return torch.rand(4).tolist()

    assert draw(0, 5) == draw(0, 5)
    numbers = [tuple(draw(seed, batch)) for seed in range(4) for batch in range(4)]
    assert len(set(numbers)) == 16


def test_wandb_is_refused_by_name():
    with pytest.raises(UserError, match=r"system\.loggers\.wandb\.enable"):
        System({"loggers": {"wandb": {"enable": True}}})
    System({"loggers": {"wandb": {"enable": False, "project": "p"}}})


@pytest.mark.parametrize(
    ("section", "cls", "values", "message"),
    [
        ("trainer", pl.Trainer, {"max_steps": "abc"}, "max_steps = 'abc' has the wrong type.*int"),
        ("trainer", pl.Trainer, {"max_step": 3}, "did you mean max_steps"),
        ("trainer", pl.Trainer, {"callbacks": []}, "the launcher sets it"),
        ("trainer", pl.Trainer, {"log_every_n_steps": 1.5}, "log_every_n_steps"),
        ("checkpoint", ModelCheckpoint, {"save_topk": 1}, "did you mean save_top_k"),
        ("checkpoint", ModelCheckpoint, {"save_top_k": "all"}, "expects int"),
    ],
)
def test_bad_sections(section, cls, values, message):
    with pytest.raises(ConfigKeyError, match=message):
        check_arguments(section, cls, OmegaConf.create({section: values})[section])


def test_good_sections():
    trainer = {
        "max_steps": 5, "precision": "16-mixed", "val_check_interval": 200,
        "gradient_clip_val": 1, "check_val_every_n_epoch": None, "enable_progress_bar": True,
    }  # fmt: skip
    check_arguments("trainer", pl.Trainer, OmegaConf.create(trainer))
    checkpoint = {"save_last": True, "save_top_k": -1, "every_n_train_steps": 10}
    check_arguments("checkpoint", ModelCheckpoint, OmegaConf.create(checkpoint))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (SystemExit(1), KeyboardInterrupt),
        (MisconfigurationException("no"), UserError),
        (torch.OutOfMemoryError("CUDA out of memory"), UserError),
        (ValueError("a fault of ours"), ValueError),
    ],
)
def test_clear_errors(raised, expected):
    with pytest.raises(expected), clear_errors():
        raise raised


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    log.setup_logging()
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: float(next(clock)))
    trainer = mock.create_autospec(pl.Trainer, instance=True, max_steps=100, global_step=0)
    progress, system = callbacks.Progress(interval=10.0), System({})
    progress.on_train_start(trainer, system)
    for trainer.global_step in range(1, 7):
        progress.on_train_batch_end(trainer, system, {"loss": torch.tensor(0.5)})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[1:] == ["training", "3/100", "0.25/s", "loss", "0.5"]


def test_pictures_of_the_guidance_stand_beside_the_render(tmp_path):
    class Empty(BaseLift3DSystem):
        def configure(self):
            pass

    system = Empty({})
    system.set_save_dir(tmp_path)
    pictures = {"imgs_noisy": torch.rand(2, 4, 4, 3), "imgs_1step": torch.rand(2, 8, 8, 3)}
    system.guidance_evaluation_save(torch.rand(3, 6, 5, 3), {**pictures, "texts": ["a", "b"]})
    assert Image.open(tmp_path / "it0-train.png").size == (3 * 5, 2 * 6)
