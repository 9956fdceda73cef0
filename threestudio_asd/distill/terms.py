"""Target and source terms: the two predictions whose difference a method distils.

A target is ``(predictions, s) -> epsilon``, a source ``(predictions) -> epsilon``. Register your
own in any file that is imported before its method is looked up::

    @register_source("null", needs=("null",))
    def null(predictions):
        return predictions["null"]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.guidance import classifier_free_guidance, guidance_rescale
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.registry import Registry

TargetFunction = Callable[[Predictions, float], Tensor]
SourceFunction = Callable[[Predictions], Tensor]


@dataclass(frozen=True)
class Term:
    """A registered term.

    Args:
        name: For messages.
        function: Of the predictions.
        needs: The predictions that it reads.
        settings: The numbers that it reads, with their defaults.
    """

    name: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, predictions: Predictions, *args: Any) -> Float[Tensor, "B C H W"]:
        """The term of what it declared, and of nothing else."""
        return self.function(predictions.limited(self.needs, self.name, self.settings), *args)


TARGETS: Registry[Term] = Registry("target term")
SOURCES: Registry[Term] = Registry("source term")


def register_target(
    name: str, needs: tuple[str, ...], settings: Mapping[str, Any] | None = None
) -> Callable[[TargetFunction], TargetFunction]:
    """Decorator: register a target; ``needs`` names the predictions that it reads, ``settings`` its
    numbers, with their defaults (a number or a schedule)."""
    return _register(TARGETS, name, needs, settings)


def register_source(
    name: str, needs: tuple[str, ...], settings: Mapping[str, Any] | None = None
) -> Callable[[SourceFunction], SourceFunction]:
    """Decorator: register a source; as :func:`register_target`."""
    return _register(SOURCES, name, needs, settings)


def _register(
    registry: Registry[Term], name: str, needs: tuple[str, ...], settings: Mapping[str, Any] | None
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        registry.add(name, Term(f"the {registry.kind} '{name}'", function, needs, settings or {}))
        return function

    return register


@register_target("guided", needs=("null", "cond"))
def guided_target(predictions: Predictions, scale: float) -> Float[Tensor, "B C H W"]:
    """e^s = e_null + s (e_y - e_null)."""
    return classifier_free_guidance(predictions["null"], predictions["cond"], scale)


@register_target("guided-x0-rescaled", needs=("null", "cond"), settings={"recon_std_rescale": 0.5})
def rescaled_reconstruction(predictions: Predictions, scale: float) -> Float[Tensor, "B C H W"]:
    """The epsilon of c x0(e^s), the guided reconstruction with its contrast pulled back.

        c = rho std(x0(e_y)) / std(x0(e^s)) + 1 - rho

    rho is the setting ``recon_std_rescale``, in [0, 1]; the deviations are those of a scene, over
    all its views. At rho = 0 it is e^s. (MVDream, arXiv:2308.16512, section 3.2 and appendix.)
    """
    guided = classifier_free_guidance(predictions["null"], predictions["cond"], scale)
    rho = predictions.settings["recon_std_rescale"]
    if rho == 0.0:
        return guided
    x0 = (predictions.x0(guided), predictions.x0(predictions["cond"]))
    return predictions.epsilon(guidance_rescale(*x0, rho, predictions.views_at_once))


@register_target("cond", needs=("cond",))
def conditional_target(predictions: Predictions, scale: float) -> Float[Tensor, "B C H W"]:
    """e_y, whatever the scale."""
    return predictions["cond"]


@register_source("noise", needs=())
def noise_source(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """eps, the drawn noise: an unbiased but noisy estimate of the score of the single render."""
    return predictions.noise


@register_source("critic", needs=("critic",))
def critic_source(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """e_phi, the critic's score of the renders' distribution."""
    return predictions["critic"]


@register_source("zero", needs=())
def zero_source(predictions: Predictions) -> Float[Tensor, "B C H W"]:
    """0: the noise's expectation, in place of the noise."""
    return torch.zeros_like(predictions.x_t)
