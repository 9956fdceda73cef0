"""Everything that a step asks of the teacher, in one call of its network."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from threestudio_asd.distill.guidance import perp_neg
from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.distill.prediction_types import to_epsilon
from threestudio_asd.distill.predictions import PREDICTIONS
from threestudio_asd.distill.schedule import Times
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.teachers.base import Teacher
from threestudio_asd.teachers.condition import Condition

# Perp-neg directions with smaller weights are not worth a UNet evaluation (threestudio's bound).
_NEGLIGIBLE_WEIGHT = 1e-4
# In the order of threestudio's batches.
_ORDER = ("null", "cond")
# Of the predictions those that no row of the network's is.
_PERP_NEG = "perpneg"
CORRECTIVE = "corrective"

Row = tuple[Tensor, Times, Condition]


@dataclass(frozen=True, eq=False)
class Query:
    """Predictions wanted at one noisy batch.

    Args:
        names: Of the predictions that are wanted. Where the text has negatives, "cond" is
            perp-neg's e_y', and they are asked about, too.
        raw: Perp-neg projects raw predictions, as the official code's gamma term does, and not
            guidance directions, which start at e_null.
    """

    noisy: NoisyBatch
    text: Conditions
    names: frozenset[str]
    raw: bool = False

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Name -> (x_t, t, condition) of the evaluations that answer the query."""
        x_t, t = self.noisy.x_t, self.noisy.t
        names = self.names - {_PERP_NEG, CORRECTIVE}
        names = names | {"cond"} if _PERP_NEG in self.names else names
        names = names | {"null"} if self._moved and not self.raw else names
        ordered = [*(n for n in _ORDER if n in names), *sorted(names - {*_ORDER})]
        rows = {name: self._row(name) for name in ordered}
        if self._moved:
            item, k = self._weighty
            row = item * self.text.negative_weights.shape[1] + k
            rows["negatives"] = (x_t[item], t[item], self.text.negatives[row])
        return rows

    def answer(self, said: dict[str, Tensor]) -> "Answer":
        """From what the network said, by ``rows``; skipped negatives are filled in by 0."""
        if not self._moved:
            return Answer(said)
        weights = self.text.negative_weights
        negatives = self.noisy.x_t.new_zeros(*weights.shape, *self.noisy.x_t.shape[1:])
        negatives[self._weighty] = said.pop("negatives").to(negatives)
        return Answer(said, negatives, weights)

    def _row(self, name: str) -> Row:
        what = PREDICTIONS.get(name)
        return self.noisy.at(what.at), self.noisy.t, self.text[what.like or name]

    @property
    def _moved(self) -> bool:
        return bool({"cond", _PERP_NEG} & self.names) and self.text.negatives is not None

    @cached_property
    def _weighty(self) -> tuple[Tensor, ...]:
        """(item, k) of the negatives with a weight worth an evaluation."""
        return torch.nonzero(self.text.negative_weights.abs() > _NEGLIGIBLE_WEIGHT, as_tuple=True)


@dataclass(frozen=True, eq=False)
class Answer:
    """The teacher's answer at one noisy batch; perp-neg happens here and nowhere else."""

    said: dict[str, Tensor]
    negatives: Tensor | None = None
    negative_weights: Tensor | None = None

    def predictions(self, names: Iterable[str], raw: bool = False) -> dict[str, Tensor]:
        """``names`` as (B, C, h, w) in epsilon space; "cond" is e_y' where there are negatives,
        and "perpneg" what sets it apart from e_y."""
        wanted = frozenset(names)
        found = {name: self.said[name] for name in wanted - {_PERP_NEG}}
        if not {"cond", _PERP_NEG} & wanted:
            return found
        cond = moved = self.said["cond"]
        if self.negatives is not None:
            origin = None if raw else self.said["null"]
            moved = perp_neg(cond, self.negatives, self.negative_weights, origin)
        derived = {"cond": moved, _PERP_NEG: moved - cond}
        return found | {name: derived[name] for name in wanted & derived.keys()}


def ask(teacher: Teacher, queries: Sequence[Query]) -> list[Answer]:
    """Answer all ``queries`` with at most one call of the teacher, and one of its corrective
    network for each that reads it."""
    parts = iter(_asked(teacher, [row for query in queries for row in query.rows.values()]))
    found = []
    for query in queries:
        said = {name: next(parts) for name in query.rows}
        if CORRECTIVE in query.names:
            said[CORRECTIVE] = _corrected(teacher, query.noisy)
        found.append(query.answer(said))
    return found


def _asked(teacher: Teacher, rows: Sequence[Any]) -> Sequence[Tensor]:
    """What the network says to each :data:`Row` of ``rows``."""
    if not rows:
        return ()
    x_t, t, conditions = zip(*rows, strict=True)
    said = teacher.epsilon(torch.cat(x_t), torch.cat(t), Condition.concatenate(conditions))
    return said.split([len(times) for times in t])


def _corrected(teacher: Teacher, noisy: NoisyBatch) -> Tensor:
    """The epsilon that makes b(x_0, t) of x_t."""
    x0 = teacher.corrective()(noisy.x0, noisy.t)
    return to_epsilon(teacher.schedule, x0, noisy.x_t, noisy.t, "sample")
