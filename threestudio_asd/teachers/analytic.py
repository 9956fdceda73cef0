"""Teachers whose score is known exactly: the ground truth of the tests.

If x_0 ~ N(m, v I), then x_t = alpha x_0 + sigma eps ~ N(alpha m, (alpha^2 v + sigma^2) I), and
since E[eps | x_t] = -sigma grad log p(x_t),

    e(x_t) = sigma (x_t - alpha m) / (alpha^2 v + sigma^2).                              (Gaussian)

A mixture's posterior mean is that of its components, weighted by their responsibilities,

    e(x_t) = sum_k r_k(x_t) e_k(x_t),   r_k ~ w_k N(x_t; alpha m_k, (alpha^2 v_k + sigma^2) I).

Any (C, H, W) will do. Pixels are the latents, so ``encode`` and ``decode`` ask for C = 3.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.prediction_types import from_epsilon
from threestudio_asd.distill.schedule import NoiseSchedule, Times
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.base import Teacher
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.plain import PlainTeacher


def gaussian_epsilon(
    schedule: NoiseSchedule,
    x_t: Float[Tensor, "B C H W"],
    t: Times,
    mean: Float[Tensor, "#B C H W"],
    variance: Float[Tensor, "#B 1 1 1"],
) -> Float[Tensor, "B C H W"]:
    """E[eps | x_t] for x_0 ~ N(mean, variance I): sigma (x_t - alpha m)/(alpha^2 v + sigma^2)."""
    alpha, sigma = schedule.alpha(t, x_t), schedule.sigma(t, x_t)
    return sigma * (x_t - alpha * mean) / (alpha**2 * variance + sigma**2)


class _AnalyticTeacher(Teacher):
    """Named Gaussians; an embedding (1, K) holds one share for each of the K components."""

    prediction_type = "epsilon"
    unconditional: Float[Tensor, " K"]  # the embedding of ""

    def __init__(
        self,
        components: dict[str, tuple[Float[Tensor, "C H W"], float]],
        schedule: NoiseSchedule,
    ) -> None:
        self.schedule = schedule
        self.names = list(components)
        device = schedule.device
        self.means = torch.stack([mean for mean, _ in components.values()]).to(device)
        stds = torch.tensor([std for _, std in components.values()], dtype=self.means.dtype)
        if not bool((stds >= 0).all()):
            raise UserError(f"Standard deviations must not be negative; got {stds.tolist()}.")
        self.variances = stds.square().to(device)
        channels, height, width = self.means.shape[1:]
        self.latent_shape = (channels, height, width)
        self.image_size = height

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """The images themselves."""
        return images

    def decode(self, latents: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """The latents themselves, clamped to [0, 1]."""
        return latents.clamp(0.0, 1.0)

    def embed_text(self, prompts: list[str]) -> Condition:
        """One row for each prompt; a view after the last comma ("a dot, side view") is dropped.

        Raises:
            UserError: A prompt that is no component's name.
        """
        return Condition(torch.stack([self._embed(prompt) for prompt in prompts]).unsqueeze(1))

    def _embed(self, prompt: str) -> Float[Tensor, " K"]:
        if prompt == "":
            return self.unconditional
        for name in (prompt, prompt.rpartition(",")[0].strip()):
            if name and name in self.names:
                return self._one_hot(name)
        known = ", ".join(repr(name) for name in self.names)
        raise UserError(f"The analytic teacher does not know '{prompt}'; choose one of: {known}.")

    def _one_hot(self, name: str) -> Float[Tensor, " K"]:
        return torch.eye(len(self.names)).to(self.means)[self.names.index(name)]


class GaussianTeacher(_AnalyticTeacher):
    """One Gaussian for each prompt, the unconditional ``""`` among them.

    An embedding averages means and variances, so that every condition, interpolated ones too, is
    again a Gaussian: predictions are affine in x_t and expectations have closed forms.

    Args:
        components: prompt -> (mean (C, H, W), standard deviation >= 0); ``""`` is required.
        schedule: Its device is the teacher's.

    Raises:
        UserError: No component ``""``, or a negative standard deviation.
    """

    def __init__(
        self,
        components: dict[str, tuple[Float[Tensor, "C H W"], float]],
        schedule: NoiseSchedule,
    ) -> None:
        if "" not in components:
            raise UserError("GaussianTeacher needs an unconditional component; add one called ''.")
        super().__init__(components, schedule)
        self.unconditional = self._one_hot("")

    def epsilon(
        self,
        x_t: Float[Tensor, "B C H W"],
        t: Times,
        condition: Condition,
    ) -> Float[Tensor, "B C H W"]:
        """Exact E[eps | x_t, condition]; rows of ``condition`` hold shares that sum to 1."""
        share = condition.tokens[:, 0].to(self.means)
        mean = torch.einsum("bk,kchw->bchw", share, self.means)
        variance = (share @ self.variances).view(-1, 1, 1, 1)
        return gaussian_epsilon(self.schedule, x_t, t, mean.to(x_t), variance.to(x_t))


class GaussianMixtureTeacher(_AnalyticTeacher):
    """A mixture of named Gaussians: a prompt is one component, ``""`` the whole mixture.

    The unconditional score is then the exact marginal of the conditional ones, and guidance behaves
    as it should: e_y - e_null is -sigma grad log p(y | x_t). An embedding holds mixture weights.

    Args:
        components: prompt -> (mean (C, H, W), standard deviation >= 0).
        schedule: Its device is the teacher's.
        weights: Prior weights of the components, positive; equal if left out.

    Raises:
        UserError: Weights of the wrong number or sign, or a negative standard deviation.
    """

    def __init__(
        self,
        components: dict[str, tuple[Float[Tensor, "C H W"], float]],
        schedule: NoiseSchedule,
        weights: list[float] | None = None,
    ) -> None:
        super().__init__(components, schedule)
        weights = [1.0] * len(self.names) if weights is None else weights
        if len(weights) != len(self.names) or min(weights) <= 0.0:
            raise UserError(f"Give one positive weight for each of {self.names}; got {weights}.")
        prior = torch.tensor(weights).to(self.means)
        self.unconditional = prior / prior.sum()

    def epsilon(
        self,
        x_t: Float[Tensor, "B C H W"],
        t: Times,
        condition: Condition,
    ) -> Float[Tensor, "B C H W"]:
        """Exact E[eps | x_t, condition] = sum_k r_k e_k."""
        components = [
            gaussian_epsilon(self.schedule, x_t, t, mean[None], variance.view(1, 1, 1, 1))
            for mean, variance in zip(self.means.to(x_t), self.variances.to(x_t), strict=True)
        ]
        responsibilities = self._responsibilities(x_t, t, condition.tokens[:, 0]).to(x_t)
        return torch.einsum("bk,bkchw->bchw", responsibilities, torch.stack(components, dim=1))

    def _responsibilities(
        self,
        x_t: Float[Tensor, "B C H W"],
        t: Times,
        weights: Float[Tensor, "B K"],
    ) -> Float[Tensor, "B K"]:
        """p(k | x_t), from log-densities: densities underflow in many dimensions."""
        x_t = x_t.to(self.means)
        alpha, sigma = self.schedule.alpha(t, x_t), self.schedule.sigma(t, x_t)
        variance = (alpha**2).flatten(1) * self.variances + (sigma**2).flatten(1)
        distance = (x_t[:, None] - alpha[:, None] * self.means).square().flatten(2).sum(dim=2)
        dimension = self.means[0].numel()
        log_density = -0.5 * (distance / variance + dimension * variance.log())
        return (weights.to(self.means).log() + log_density).softmax(dim=1)


def stating(teacher: Teacher, prediction_type: str) -> PlainTeacher:
    """``teacher`` as a network that states ``prediction_type``: the same model in another space."""

    def function(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        epsilon = teacher.epsilon(x_t, t, condition)
        return from_epsilon(teacher.schedule, epsilon, x_t, t, prediction_type)

    return PlainTeacher(function, teacher.latent_shape, teacher.schedule, prediction_type)
