"""The numbers of a one-step method, with the defaults of the embedded teacher."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from threestudio_asd.errors import UserError


@dataclass(frozen=True)
class OneStepSettings:
    """Numbers of a row of the table and of its training.

    Losses are means over the latents' entries, so that weights do not depend on their size.

    Args:
        alpha: SiD's; 1/2, 1 and 1.2 are in use.
        distance: Name of ADD's c(t).
        score_weight: Of the score term.
        adversarial_weight: Of the generator's adversarial term.
        adversarial_per_error: Whether that term of each item has SiD's weight, too.
        average_over: Items whose adversarial loss is averaged before they are weighed; 0 is the
            batch, 1 each item alone.
        logit_limit: The generator sees logits clamped to +-this; None is off.
        discriminator_weight: Of the discriminator's loss, in that of the fake network.
        discriminator_per_level: Whether that loss has the denoising weight, too.
        r1_weight: Of ``r1`` on the features of real pictures.
        sigma_data: q of the denoising weight "edm".
        fake_train_scale: kappa_1, the guidance scale at which the fake network is trained.
        fake_scale: kappa_2 = kappa_3, its scale in the generator's loss.
        teacher_scale: kappa_4, the teacher's. (SiD-LSG, Zhou et al. 2024, arXiv:2406.01561.)
        caption_dropout: Share of captions that a fake step hides, of a guided fake network.
        fake_steps: Steps of the fake network for one of the generator.
        generator_from: The first step in which the generator moves.
        adversarial_from: The first step in which its adversarial term counts.
        score_range: Of the score term's times, as fractions of the schedule.
        fake_range: Of the fake network's times.
        adversarial_range: Of the times of a discriminator that has noise of its own.
        init_timestep: The generator's t: it is given pure noise of that level.
        batch: Pictures of a step.
        lr_generator, lr_fake: Adam's learning rates.
        betas: Adam's.
        ema: Decay of the average of the generator's weights.
        clip_value: Entries of the fake network's gradient are clamped to +-this; 0 is off.

    Raises:
        UserError: A number is out of its range.
    """

    alpha: float = 1.0
    distance: str = "exponential"
    score_weight: float = 1.0
    adversarial_weight: float = 1e-2
    adversarial_per_error: bool = False
    average_over: int = 0
    logit_limit: float | None = None
    discriminator_weight: float = 0.1
    discriminator_per_level: bool = False
    r1_weight: float = 0.0
    sigma_data: float = 1.0
    fake_train_scale: float = 1.0
    fake_scale: float = 1.0
    teacher_scale: float = 1.0
    caption_dropout: float = 0.1
    fake_steps: int = 1
    generator_from: int = 0
    adversarial_from: int = 0
    score_range: tuple[float, float] = (0.02, 0.979)
    fake_range: tuple[float, float] = (0.02, 0.979)
    adversarial_range: tuple[float, float] = (0.0, 1.0)
    init_timestep: int = 625
    batch: int = 16
    lr_generator: float = 1e-4
    lr_fake: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.999)
    ema: float = 0.99
    clip_value: float = 0.0

    def __post_init__(self) -> None:
        for name in ("batch", "fake_steps", "lr_generator", "lr_fake", "sigma_data"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be positive; got {getattr(self, name)}.")
        for name in ("generator_from", "adversarial_from", "init_timestep", "average_over"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative; got {getattr(self, name)}.")
        for name in ("ema", "caption_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"{name} must be in [0, 1); got {getattr(self, name)}.")
        if self.logit_limit is not None and not self.logit_limit > 0:
            raise UserError(f"logit_limit must be positive or None; got {self.logit_limit}.")
        for name in ("score_range", "fake_range", "adversarial_range"):
            if not 0.0 <= getattr(self, name)[0] <= getattr(self, name)[1] <= 1.0:
                raise UserError(
                    f"{name} must be two rising fractions in [0, 1]; got {getattr(self, name)}."
                )
        if self.average_over and self.batch % self.average_over:
            raise UserError(
                f"average_over={self.average_over} is no divisor of batch={self.batch}; "
                "choose one, 0 for the whole batch or 1 for each item alone."
            )

    @property
    def guides_fake(self) -> bool:
        """Whether the fake network is ever guided, hence must know what no caption is."""
        return self.fake_train_scale != 1.0 or self.fake_scale != 1.0


def read(values: Mapping[str, Any]) -> OneStepSettings:
    """From a config's values, whose pairs are lists and whose whole numbers may stand for others.

    Raises UserError if one is of another kind than its default, or out of its range.
    """
    defaults = {f.name: f.default for f in fields(OneStepSettings)}
    return OneStepSettings(**{k: _as(k, value, defaults[k]) for k, value in values.items()})


def _as(name: str, value: Any, default: Any) -> Any:
    """``value`` in the type of ``default``."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and len(value) == 2:
            return tuple(_as(name, x, 0.0) for x in value)
        wanted = "two numbers"
    elif isinstance(default, bool | str):
        if isinstance(value, type(default)):
            return value
        wanted = "true or false" if isinstance(default, bool) else "a name"
    elif isinstance(default, int):
        if number and isinstance(value, int):
            return value
        wanted = "a whole number"
    elif number or (default is None and value is None):
        return value if value is None else float(value)
    else:
        wanted = "a number"
    raise UserError(f"{name} must be {wanted}; got {value!r}.")
