"""What the prompt says of each view in a batch: the text side of a step."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conditions:
    """Text embeddings of a batch.

    Args:
        cond: e_y's prompt, view-dependent.
        null: The unconditional (or negative) prompt.
        plain: The critic's prompt, the same for every view.
        negatives: Perp-neg's K prompts for each item.
        negative_weights: Their weights, with threestudio's sign (negative repels).
    """

    cond: Float[Tensor, "B L D"]
    null: Float[Tensor, "B L D"]
    plain: Float[Tensor, "B L D"]
    negatives: Float[Tensor, "B K L D"] | None = None
    negative_weights: Float[Tensor, "B K"] | None = None

    @classmethod
    def of_views(
        cls,
        prompt_utils: Any,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        view_dependent: bool = True,
        perp_neg: bool = True,
    ) -> "Conditions":
        """From a prompt processor's output; angles in degrees.

        Args:
            perp_neg: False leaves the negatives out, whatever the prompt processor says.
        """
        view, batch = (elevation, azimuth, camera_distances), len(elevation)
        plain = prompt_utils.get_text_embeddings(*view, False)[:batch]
        if not (perp_neg and prompt_utils.use_perp_neg):
            both = prompt_utils.get_text_embeddings(*view, view_dependent)
            return cls(both[:batch], both[batch:], plain)
        texts, weights = prompt_utils.get_text_embeddings_perp_neg(*view, view_dependent)
        negatives = texts[2 * batch :].unflatten(0, (batch, -1))
        return cls(texts[:batch], texts[batch : 2 * batch], plain, negatives, weights)

    def items(self, which: slice) -> "Conditions":
        """A part of the batch."""
        rows = vars(self).items()
        return Conditions(**{name: x if x is None else x[which] for name, x in rows})

    def tiled(self, times: int) -> "Conditions":
        """The whole batch ``times`` times over."""
        return Conditions(**{name: tile(value, times) for name, value in vars(self).items()})


def tile(x: Tensor | None, times: int) -> Tensor | None:
    """``x`` repeated ``times`` times along the batch; nothing stays nothing."""
    return x if x is None or times == 1 else x.repeat(times, *[1] * (x.dim() - 1))
