"""Everything that a step asks of the teacher, in one call of its network without gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.teachers.base import Teacher

# Perp-neg directions with smaller weights are not worth a UNet evaluation (threestudio's bound).
_NEGLIGIBLE_WEIGHT = 1e-4

# What the teacher said at one noisy batch: "null" and "cond" (B, C, h, w), "negatives"
# (B, K, C, h, w); only what was asked.
Answer = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Query:
    """Predictions wanted at one noisy batch.

    Args:
        needs: Of "null" and "cond", those that are wanted. With "cond" come the negatives, where
            the text has any: they are part of perp-neg's e_y.
    """

    x_t: Float[Tensor, "B C h w"]
    t: Int[Tensor, " B"]
    text: Conditions
    needs: frozenset[str]

    @cached_property
    def rows(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Name -> (x_t, t, embedding) of the evaluations that answer the query."""
        rows = {
            name: (self.x_t, self.t, getattr(self.text, name))
            for name in ("null", "cond")
            if name in self.needs
        }
        if self._has_negatives:
            item, k = self._weighty
            rows["negatives"] = (self.x_t[item], self.t[item], self.text.negatives[item, k])
        return rows

    def answer(self, predictions: dict[str, Tensor]) -> Answer:
        """``predictions``, one for each of ``rows``, with the skipped negatives filled in by 0."""
        if not self._has_negatives:
            return predictions
        shape = (*self.text.negative_weights.shape, *self.x_t.shape[1:])
        negatives = self.x_t.new_zeros(shape)
        negatives[self._weighty] = predictions["negatives"].to(negatives)
        return predictions | {"negatives": negatives}

    @property
    def _has_negatives(self) -> bool:
        return "cond" in self.needs and self.text.negatives is not None

    @cached_property
    def _weighty(self) -> tuple[Tensor, ...]:
        """(item, k) of the negatives with a weight worth an evaluation."""
        return torch.nonzero(self.text.negative_weights.abs() > _NEGLIGIBLE_WEIGHT, as_tuple=True)


@torch.no_grad()
def ask(teacher: Teacher, queries: Sequence[Query]) -> list[Answer]:
    """Answer all ``queries`` with at most one call of the teacher."""
    rows = [row for query in queries for row in query.rows.values()]
    if not rows:
        return [{} for _ in queries]
    x_t, t, condition = (torch.cat(column) for column in zip(*rows, strict=True))
    said = iter(teacher.epsilon(x_t, t, condition).split([len(row[1]) for row in rows]))
    return [query.answer({name: next(said) for name in query.rows}) for query in queries]
