"""Base classes of everything that a config can name."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from threestudio_asd.errors import UserError
from threestudio_asd.studio.checkpoint.store import load_module_weights
from threestudio_asd.studio.config.structured import parse_structured
from threestudio_asd.studio.device import get_device


class Updateable:
    """Something with state that depends on the training step.

    Override :meth:`update_step` and :meth:`update_step_end`; the owner calls
    :meth:`do_update_step` and :meth:`do_update_step_end`, which visit public attributes first.
    """

    def do_update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Update this object and, before it, its public ``Updateable`` attributes."""
        for child in _updateable_attributes(self):
            child.do_update_step(epoch, global_step, on_load_weights=on_load_weights)
        self.update_step(epoch, global_step, on_load_weights=on_load_weights)

    def do_update_step_end(self, epoch: int, global_step: int) -> None:
        """As :meth:`do_update_step`, after the step."""
        for child in _updateable_attributes(self):
            child.do_update_step_end(epoch, global_step)
        self.update_step_end(epoch, global_step)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Prepare for step ``global_step``; with ``on_load_weights``, restore state only."""

    def update_step_end(self, epoch: int, global_step: int) -> None:
        """React to the end of a step."""


def _updateable_attributes(owner: Any) -> list[Updateable]:
    attributes = {**vars(owner), **vars(owner).get("_modules", {})}
    return [
        value
        for name, value in attributes.items()
        if not name.startswith("_") and isinstance(value, Updateable)
    ]


def update_if_possible(module: Any, epoch: int, global_step: int) -> None:
    """``do_update_step`` if ``module`` has it."""
    if isinstance(module, Updateable):
        module.do_update_step(epoch, global_step)


def update_end_if_possible(module: Any, epoch: int, global_step: int) -> None:
    """``do_update_step_end`` if ``module`` has it."""
    if isinstance(module, Updateable):
        module.do_update_step_end(epoch, global_step)


class BaseObject(Updateable):
    """A configured object without weights of its own."""

    @dataclass
    class Config:
        pass

    cfg: Config

    def __init__(self, cfg: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        self.configure(*args, **kwargs)

    def configure(self, *args: Any, **kwargs: Any) -> None:
        """Build the object from ``self.cfg``; receives the constructor's further arguments."""


class BaseModule(nn.Module, Updateable):
    """A configured module; ``weights: path/to/checkpoint:module.name`` loads it from a trial."""

    @dataclass
    class Config:
        weights: str | None = None

    cfg: Config

    def __init__(self, cfg: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        self.configure(*args, **kwargs)
        if self.cfg.weights is not None:
            self._load(self.cfg.weights)

    def configure(self, *args: Any, **kwargs: Any) -> None:
        """Build the module from ``self.cfg``; receives the constructor's further arguments."""

    def _load(self, weights: str) -> None:
        path, separator, module_name = weights.rpartition(":")
        if not separator:
            raise UserError(
                f'weights="{weights}" must have the form path/to/file.ckpt:module_name.'
            )
        state, epoch, global_step = load_module_weights(path, module_name=module_name)
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(
                f"weights {weights} do not fit {type(self).__name__}: they were made with another"
                f" config ({' '.join(str(error).split())})"
            ) from error
        self.do_update_step(epoch, global_step, on_load_weights=True)
