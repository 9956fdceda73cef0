"""The mathematics of score distillation in plain torch.

Read ``methods`` first: it is the table; the other modules are its columns. To extend it from a file
of your own: ``register_source``, ``register_target``, ``register_weighting``,
``register_critic_objective``, ``register_method``.
"""

from threestudio_asd.distill.critic import (
    CRITIC_OBJECTIVES,
    CriticObjective,
    optimal_critic,
    register_critic_objective,
    rescaled_scale,
)
from threestudio_asd.distill.critic_step import (
    GAMMA_TARGETS,
    CriticSettings,
    CriticStep,
    check_gamma,
    denoise_target,
    gamma_target,
    gamma_teacher,
    mean_squared_error,
)
from threestudio_asd.distill.gradient import (
    clip_gradient,
    distillation_gradient,
    reparametrised_loss,
)
from threestudio_asd.distill.guidance import (
    classifier_free_guidance,
    conditional,
    convert_threestudio_sds_scale,
    guidance_rescale,
    guided,
    perp_neg,
    perpendicular_component,
)
from threestudio_asd.distill.methods import ASD, METHODS, SDS, SJC, VSD, Method, register_method
from threestudio_asd.distill.registry import Registry
from threestudio_asd.distill.schedule import (
    PREDICTION_TYPES,
    NoiseSchedule,
    check_prediction_type,
    from_epsilon,
    to_epsilon,
    to_x0,
)
from threestudio_asd.distill.scores import Scores
from threestudio_asd.distill.terms import SOURCES, TARGETS, register_source, register_target
from threestudio_asd.distill.timesteps import TimestepRange
from threestudio_asd.distill.weighting import WEIGHTINGS, register_weighting, weight

__all__ = [
    "ASD",
    "CRITIC_OBJECTIVES",
    "GAMMA_TARGETS",
    "METHODS",
    "PREDICTION_TYPES",
    "SDS",
    "SJC",
    "SOURCES",
    "TARGETS",
    "VSD",
    "WEIGHTINGS",
    "CriticObjective",
    "CriticSettings",
    "CriticStep",
    "Method",
    "NoiseSchedule",
    "Registry",
    "Scores",
    "TimestepRange",
    "check_gamma",
    "check_prediction_type",
    "classifier_free_guidance",
    "clip_gradient",
    "conditional",
    "convert_threestudio_sds_scale",
    "denoise_target",
    "distillation_gradient",
    "from_epsilon",
    "gamma_target",
    "gamma_teacher",
    "guidance_rescale",
    "guided",
    "mean_squared_error",
    "optimal_critic",
    "perp_neg",
    "perpendicular_component",
    "register_critic_objective",
    "register_method",
    "register_source",
    "register_target",
    "register_weighting",
    "reparametrised_loss",
    "rescaled_scale",
    "to_epsilon",
    "to_x0",
    "weight",
]
