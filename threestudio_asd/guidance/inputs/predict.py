"""What a noising may ask of the teacher while it makes the noisy batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.noise_fields import Field
from threestudio_asd.distill.noising import Draws, NoisyBatch
from threestudio_asd.distill.predictions import PREDICTIONS
from threestudio_asd.distill.schedule import NoiseSchedule, Times
from threestudio_asd.distill.settings import Settings
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.query import CORRECTIVE, Query, ask
from threestudio_asd.teachers.base import Teacher


@dataclass(frozen=True, eq=False)
class AskTeacher:
    """A noising's questions to the teacher, without gradient.

    Args:
        text: The conditions of the whole batch.
        asks: The predictions that the noising declared.
        settings: Its numbers.
        draws: Its random numbers.
        field: The noise field that it reads.
        scale: The guidance scale s of the step.
    """

    teacher: Teacher
    text: Conditions
    asks: tuple[str, ...]
    settings: Settings
    draws: Draws
    field: Field | None = None
    scale: float = 1.0

    @property
    def schedule(self) -> NoiseSchedule:
        """The teacher's."""
        return self.teacher.schedule

    @property
    def views_at_once(self) -> int:
        """The teacher's."""
        return self.teacher.views_at_once

    def __call__(
        self, name: str, x_t: Float[Tensor, "N C h w"], t: Times, items: Tensor | None = None
    ) -> Float[Tensor, "N C h w"]:
        """One prediction; see :meth:`together`."""
        return self.together((name,), x_t, t, items)[name]

    @torch.no_grad()
    def together(
        self,
        names: Sequence[str],
        x_t: Float[Tensor, "N C h w"],
        t: Times,
        items: Tensor | None = None,
    ) -> dict[str, Float[Tensor, "N C h w"]]:
        """Predictions at (x_t, t), wherever a step asks for them, from one call of the network.

        Args:
            items: Which of the batch's items x_t is about; all of them, in order, by default.

        Raises:
            UserError: A name that the noising did not declare, or the corrective network, which is
                about renders.
        """
        for name in names:
            if name == CORRECTIVE:
                raise UserError(
                    f"The noising asks for '{name}', which is said of clean renders and not of "
                    "latents of a noising's making; let a term read it."
                )
            if name not in self.asks:
                raise UserError(
                    f"The noising asks for '{name}' and declares "
                    f"{', '.join(self.asks) or 'nothing'}; "
                    "name it where it is registered (asks=...)."
                )
        text = self.text if items is None else self.text.rows(items)
        places = {PREDICTIONS.get(name).at for name in names} - {None}
        # Of this batch x_t and t alone are asked about.
        noisy = NoisyBatch(x_t, x_t, t, x_t, dict.fromkeys(places, x_t))
        (answer,) = ask(self.teacher, [Query(noisy, text, frozenset(names))])
        return answer.predictions(names)
