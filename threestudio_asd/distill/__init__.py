"""The mathematics of score distillation in plain torch.

Read ``methods`` first: it is the table; ``rows`` holds more of its rows, the other modules are its
columns. To extend it from a file of your own: ``register_source``, ``register_target``,
``register_prediction``, ``register_noising``, ``register_loss``, ``register_weighting``,
``register_critic_objective``, ``register_method``.
"""

from threestudio_asd.distill import rows
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
    mean_squared_error,
)
from threestudio_asd.distill.gradient import (
    clip_gradient,
    distillation_gradient,
    reparametrised_loss,
)
from threestudio_asd.distill.guidance import (
    classifier_free_guidance,
    convert_threestudio_sds_scale,
    guidance_rescale,
    perp_neg,
    perpendicular_component,
)
from threestudio_asd.distill.losses import LOSSES, GeneratorLoss, register_loss
from threestudio_asd.distill.methods import (
    ASD,
    FSD,
    FSD_2D,
    METHODS,
    SDS,
    SJC,
    VSD,
    Method,
    register_method,
)
from threestudio_asd.distill.noise_fields import FieldNoise
from threestudio_asd.distill.noising import NOISINGS, NoisyBatch, Views, register_noising
from threestudio_asd.distill.prediction_types import (
    PREDICTION_TYPES,
    check_prediction_type,
    from_epsilon,
    to_epsilon,
    to_x0,
)
from threestudio_asd.distill.predictions import PREDICTIONS, Predictions, register_prediction
from threestudio_asd.distill.real_terms import optimal_discriminator, real_terms
from threestudio_asd.distill.schedule import DiscreteSchedule, FlowSchedule, NoiseSchedule
from threestudio_asd.distill.terms import SOURCES, TARGETS, register_source, register_target
from threestudio_asd.distill.timesteps import TimestepRange
from threestudio_asd.distill.weighting import WEIGHTINGS, register_weighting, weight

__all__ = [
    "ASD",
    "CRITIC_OBJECTIVES",
    "FSD",
    "FSD_2D",
    "GAMMA_TARGETS",
    "LOSSES",
    "METHODS",
    "NOISINGS",
    "PREDICTIONS",
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
    "DiscreteSchedule",
    "FieldNoise",
    "FlowSchedule",
    "GeneratorLoss",
    "Method",
    "NoiseSchedule",
    "NoisyBatch",
    "Predictions",
    "TimestepRange",
    "Views",
    "check_gamma",
    "check_prediction_type",
    "classifier_free_guidance",
    "clip_gradient",
    "convert_threestudio_sds_scale",
    "denoise_target",
    "distillation_gradient",
    "from_epsilon",
    "gamma_target",
    "guidance_rescale",
    "mean_squared_error",
    "optimal_critic",
    "optimal_discriminator",
    "perp_neg",
    "perpendicular_component",
    "real_terms",
    "register_critic_objective",
    "register_loss",
    "register_method",
    "register_noising",
    "register_prediction",
    "register_source",
    "register_target",
    "register_weighting",
    "reparametrised_loss",
    "rescaled_scale",
    "rows",
    "to_epsilon",
    "to_x0",
    "weight",
]
