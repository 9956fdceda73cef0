"""Conditions of a network beside x_t and t."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio_asd.errors import UserError


@dataclass(frozen=True, eq=False)
class Condition:
    """Conditions of a batch; everything but the tokens is for models that know it.

    Args:
        tokens: Text embeddings, for cross-attention.
        pooled: One embedding of each whole prompt.
        time_ids: Sizes and crops, as Stable Diffusion XL is told them.
        mask: Which tokens count.
        camera: A matrix for each item: camera to world, or model-view-projection.
    """

    tokens: Float[Tensor, "B L D"]
    pooled: Float[Tensor, "B P"] | None = None
    time_ids: Float[Tensor, "B K"] | None = None
    mask: Bool[Tensor, "B L"] | None = None
    camera: Float[Tensor, "B 4 4"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Any) -> "Condition":
        """Rows of the batch, by a slice or a tensor of indices."""
        return Condition(*(None if x is None else x[index] for x in self._parts()))

    def repeat(self, times: int) -> "Condition":
        """The whole batch ``times`` times over."""
        if times == 1:
            return self
        return Condition(
            *(None if x is None else x.repeat(times, *[1] * (x.dim() - 1)) for x in self._parts())
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Condition"]) -> "Condition":
        """One batch after another.

        Raises:
            UserError: Some have a part that others lack.
        """
        columns = zip(*(part._parts() for part in parts), strict=True)
        return cls(
            *(_joined(f.name, column) for f, column in zip(fields(cls), columns, strict=True))
        )

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.tokens, self.pooled, self.time_ids, self.mask, self.camera


def _joined(name: str, column: Sequence[Tensor | None]) -> Tensor | None:
    given = [x for x in column if x is not None]
    if not given:
        return None
    if len(given) < len(column):
        raise UserError(f"Conditions with and without '{name}' cannot be asked about together.")
    return torch.cat(given)
