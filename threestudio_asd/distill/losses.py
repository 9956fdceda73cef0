"""Losses of the generator, for methods that state one instead of a gradient.

T - S needs no derivative of a network. A loss may: ``(predictions, scale) -> (B,)`` is
differentiated through the predictions that it names in ``through``, into x_t and the renders (never
into a network's weights)::

    @register_loss("score-norm", needs=("cond",), through=("cond",))
    def score_norm(predictions, scale):
        return predictions["cond"].square().sum(dim=(1, 2, 3))
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.errors import UserError
from threestudio_asd.registry import Registry

LossFunction = Callable[[Predictions, float], Tensor]


@dataclass(frozen=True)
class GeneratorLoss:
    """A registered loss.

    Args:
        name: For messages.
        function: ``(predictions, scale) ->`` a loss for each item; the step takes the mean.
        needs: The predictions that it reads.
        through: Those of them that keep their gradient with respect to x_t.
        settings: The numbers that it reads, with their defaults.
    """

    name: str
    function: LossFunction
    needs: tuple[str, ...]
    through: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, predictions: Predictions, scale: float) -> Float[Tensor, ""]:
        """The mean over the batch, of what the loss declared and of nothing else."""
        losses = self.function(predictions.limited(self.needs, self.name, self.settings), scale)
        if losses.shape != (len(predictions.t),):
            raise UserError(
                f"{self.name} must return one loss for each of {len(predictions.t)} items; "
                f"got shape {tuple(losses.shape)}."
            )
        return losses.mean()


LOSSES: Registry[GeneratorLoss] = Registry("generator loss")


def register_loss(
    name: str,
    needs: tuple[str, ...],
    through: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
) -> Callable[[LossFunction], LossFunction]:
    """Decorator: register a loss under ``name``; see :class:`GeneratorLoss`.

    Raises:
        UserError: ``through`` names what ``needs`` does not.
    """
    if unread := set(through) - set(needs):
        raise UserError(
            f"The generator loss '{name}' has a gradient through {', '.join(sorted(unread))}, "
            "which it does not read; name it in needs, too."
        )

    def register(function: LossFunction) -> LossFunction:
        called = f"the generator loss '{name}'"
        LOSSES.add(name, GeneratorLoss(called, function, needs, through, settings or {}))
        return function

    return register
