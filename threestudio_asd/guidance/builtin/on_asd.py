"""What the guidances with names and keys of others share: ours, with those keys that it has."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from jaxtyping import Float
from omegaconf import ListConfig
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.asd import StableDiffusionASDGuidance
from threestudio_asd.guidance.checks import require_models
from threestudio_asd.teachers.base import Teacher

# Keys of threestudio that would silently do nothing -> what to do instead.
_UNIMPLEMENTED = {
    "token_merging": "it changes the teacher to save time",
    "use_img_loss": "the loss on latents is",
}
_OURS = {field.name for field in fields(StableDiffusionASDGuidance.Config)}


def translated(cfg: Any, **changes: Any) -> dict[str, Any]:
    """The config of our guidance with the keys that it shares with ``cfg``, and with ``changes``.

    Raises:
        UserError: A key asks for what is not implemented, or a value is bad; the message names it.
    """
    for key, remark in _UNIMPLEMENTED.items():
        if cfg.get(key):
            raise UserError(
                f"system.guidance.{key} is not implemented ({remark}); set it to false."
            )
    for key in ("sqrt_anneal", "t_anneal"):
        if cfg.get(key) and cfg["trainer_max_steps"] < 1:
            raise UserError(
                f"system.guidance.trainer_max_steps must be at least 1 with {key}; "
                f"got {cfg['trainer_max_steps']}."
            )
    # The wrapper's weights are not the inner guidance's.
    shared = {key: cfg[key] for key in cfg if key in _OURS - {"weights"}}
    return shared | changes


class OnASD:
    """threestudio's public methods for a guidance that has ours in ``self.asd``."""

    cfg: Any
    asd: StableDiffusionASDGuidance
    require_usable = staticmethod(require_models)

    @property
    def teacher(self) -> Teacher:
        """The frozen model."""
        return self.asd.teacher

    def encode_images(self, imgs: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Latents of images in [0, 1] of any size, resized to the teacher's own."""
        return self.asd.encode_images(imgs)

    def decode_latents(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1] of latents."""
        return self.asd.decode_latents(latents)

    def set_min_max_steps(
        self, min_step_percent: float | None = None, max_step_percent: float | None = None
    ) -> None:
        """Move the range of t for the current step, fractions in [0, 1]; None keeps an edge."""
        self.asd.set_min_max_steps(min_step_percent, max_step_percent)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """``sqrt_anneal``; ``self.asd``, which is updated first, follows the other schedules."""
        if self.cfg.get("sqrt_anneal"):
            self.anneal(sqrt_annealed, epoch, global_step)

    def anneal(
        self, annealed: Callable[[float, float, float], float], epoch: int, global_step: int
    ) -> None:
        """One t for all items of a step, from the maximum to the minimum in ``trainer_max_steps``
        steps, by ``annealed``: (minimum, maximum, progress) -> the fraction of T."""
        cfg = self.cfg
        # A schedule's second item, as in threestudio.
        is_schedule = isinstance(cfg.max_step_percent, ListConfig)
        high = cfg.max_step_percent[1] if is_schedule else cfg.max_step_percent
        low = host.C(cfg.min_step_percent, epoch, global_step)
        percent = annealed(float(low), float(high), global_step / cfg.trainer_max_steps)
        self.asd.set_min_max_steps(percent, percent)


def linearly_annealed(low: float, high: float, progress: float) -> float:
    """From ``high`` to ``low``, where it stays: low + (high - low) (1 - progress)."""
    return low + (high - low) * (1.0 - min(progress, 1.0))


def sqrt_annealed(low: float, high: float, progress: float) -> float:
    """The same with the root of ``progress`` in its place. (HiFA, arXiv:2305.18766.)"""
    return linearly_annealed(low, high, min(progress, 1.0) ** 0.5)
