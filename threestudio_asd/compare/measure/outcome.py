"""A cell's result, before anything is measured of it."""

from dataclasses import dataclass
from typing import Any

import trimesh
from jaxtyping import Float
from torch import Tensor


@dataclass
class Outcome:
    """The result of one optimisation.

    Args:
        halfway, images: pictures in [0, 1] after half of the steps and after all.
        opacity: of 3D results, from the same views; None in 2D.
        mesh: of 3D results, with vertex colours; without faces where there is no surface.
        turntable: of 3D results, pictures in [0, 1] from all around; None in 2D.
        weights: of everything but the guidance, and the step they belong to: another training's
            start.
        seconds: of the training alone.
        unet_evaluations: forward passes of the teacher's UNet per step and picture, the critic's
            among them where it shares the UNet; None for a guidance without a diffusers teacher.
        unet_evaluations_in_all: of the whole training, all pictures together; of them
            ``unet_evaluations_with_gradient``. None as above.
        peak_memory_mb: of the device, or of this process on a CPU; None where it is not known.
        nonfinite_steps: how many were skipped.
        critic_error: the critic's mean denoising error in the last step, or its whole loss if
            the guidance does not tell that part; None without a critic.
    """

    images: Float[Tensor, "N 3 64 64"]
    halfway: Float[Tensor, "N 3 64 64"]
    opacity: Float[Tensor, "N 1 64 64"] | None
    mesh: trimesh.Trimesh | None
    turntable: Float[Tensor, "T 3 h w"] | None
    weights: dict[str, Any]
    seconds: float
    unet_evaluations: float | None
    unet_evaluations_in_all: int | None
    unet_evaluations_with_gradient: int | None
    peak_memory_mb: float | None
    nonfinite_steps: int
    critic_error: float | None
