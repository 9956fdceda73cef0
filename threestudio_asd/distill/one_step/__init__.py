"""One-step generators: what trains a network x = G(z) whose pictures have a teacher's distribution.

Read ``table`` first: it is the table of methods. ``scores``, ``adversarial`` and ``denoising`` are
its columns, ``objective`` puts a row's losses together. Everything is a function of tensors, of
which the networks' x_0 are three; so epsilon and v networks look alike here.

    symbol    code       meaning
    x         x          the generator's pictures
    x_t       x_t        alpha_t x + sigma_t n, n a drawn noise
    f_r       f_real     the frozen teacher's x_0 at x_t
    f_f       f_fake     the x_0 of the fake network, a trained score of the generator's pictures
    E         level      sigma_t / alpha_t, the noise level where the signal is not scaled
    D         logits     a discriminator's, positive for real
"""

from threestudio_asd.distill.one_step.adversarial import averaged, bce, hinge, hinge_generator, r1
from threestudio_asd.distill.one_step.denoising import (
    FAKE_WEIGHTS,
    denoising,
    noise_level,
    register_fake_weight,
)
from threestudio_asd.distill.one_step.objective import (
    FakeSaid,
    fake_losses,
    generator_losses,
)
from threestudio_asd.distill.one_step.scores import (
    DISTANCE_WEIGHTS,
    add_distance,
    dmd_gradient,
    inverse_error_weight,
    noise_free_x0,
    register_distance_weight,
    sid,
)
from threestudio_asd.distill.one_step.settings import OneStepSettings
from threestudio_asd.distill.one_step.table import (
    ADVERSARIES,
    ONE_STEP_METHODS,
    Adversary,
    OneStepMethod,
    register_one_step_method,
)
from threestudio_asd.distill.one_step.terms import SCORES, GeneratorSaid, Score, register_score

__all__ = [
    "ADVERSARIES",
    "DISTANCE_WEIGHTS",
    "FAKE_WEIGHTS",
    "ONE_STEP_METHODS",
    "SCORES",
    "Adversary",
    "FakeSaid",
    "GeneratorSaid",
    "OneStepMethod",
    "OneStepSettings",
    "Score",
    "add_distance",
    "averaged",
    "bce",
    "denoising",
    "dmd_gradient",
    "fake_losses",
    "generator_losses",
    "hinge",
    "hinge_generator",
    "inverse_error_weight",
    "noise_free_x0",
    "noise_level",
    "r1",
    "register_distance_weight",
    "register_fake_weight",
    "register_one_step_method",
    "register_score",
    "sid",
]
