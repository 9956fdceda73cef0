"""Target and source terms: the two predictions whose difference a method distils.

A target is ``(scores, s) -> epsilon``, a source ``(scores) -> epsilon``. Register your own in any
file that is imported before its method is looked up::

    @register_source("null", needs=("null",))
    def null(scores):
        return scores.null
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.guidance import conditional, guided
from threestudio_asd.distill.registry import Registry
from threestudio_asd.distill.scores import Scores
from threestudio_asd.errors import UserError

TargetFunction = Callable[[Scores, float], Tensor]
SourceFunction = Callable[[Scores], Tensor]
F = TypeVar("F", TargetFunction, SourceFunction)


@dataclass(frozen=True)
class Term(Generic[F]):
    """A registered term: its function, and the fields of ``Scores`` that it reads."""

    compute: F
    needs: tuple[str, ...]


TARGETS: Registry[Term[TargetFunction]] = Registry("target term")
SOURCES: Registry[Term[SourceFunction]] = Registry("source term")


def register_target(
    name: str, needs: tuple[str, ...]
) -> Callable[[TargetFunction], TargetFunction]:
    """Decorator: register a target; ``needs`` names the fields of ``Scores`` that it reads."""
    return _register(TARGETS, name, needs)


def register_source(
    name: str, needs: tuple[str, ...]
) -> Callable[[SourceFunction], SourceFunction]:
    """Decorator: register a source; ``needs`` names the fields of ``Scores`` that it reads."""
    return _register(SOURCES, name, needs)


def _register(registry: Registry[Term[F]], name: str, needs: tuple[str, ...]) -> Callable[[F], F]:
    known = [field.name for field in fields(Scores)]
    for need in needs:
        if need not in known:
            raise UserError(
                f"The {registry.kind} '{name}' needs '{need}', which no step provides; "
                f"choose from: {', '.join(known)}."
            )

    def register(function: F) -> F:
        registry.add(name, Term(function, needs))
        return function

    return register


@register_target("guided", needs=("null", "cond"))
def guided_target(scores: Scores, scale: float) -> Float[Tensor, "B C H W"]:
    """e^s = e_null + s (e_y - e_null)."""
    return guided(scores, scale)


@register_target("cond", needs=("null", "cond"))
def conditional_target(scores: Scores, scale: float) -> Float[Tensor, "B C H W"]:
    """e_y, whatever the scale (perp-neg's e_y', which reads e_null, where there are negatives)."""
    return conditional(scores)


@register_source("noise", needs=("noise",))
def noise_source(scores: Scores) -> Float[Tensor, "B C H W"]:
    """eps, the drawn noise: an unbiased but noisy estimate of the score of the single render."""
    return scores.noise


@register_source("critic", needs=("critic",))
def critic_source(scores: Scores) -> Float[Tensor, "B C H W"]:
    """e_phi, the critic's score of the renders' distribution."""
    if scores.critic is None:
        raise UserError(
            "The source 'critic' needs the critic's prediction; pass Scores(critic=...)."
        )
    return scores.critic


@register_source("zero", needs=())
def zero_source(scores: Scores) -> Float[Tensor, "B C H W"]:
    """0: the noise's expectation, in place of the noise."""
    return torch.zeros_like(scores.x_t)
