"""``stable-diffusion-vsd-guidance``: threestudio's VSD."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.distill.noising import Views
from threestudio_asd.guidance.asd import StableDiffusionASDGuidance
from threestudio_asd.guidance.builtin.on_asd import OnASD, translated


@host.register("stable-diffusion-vsd-guidance")
class StableDiffusionVSDGuidance(OnASD, host.BaseModule):
    """Variational score distillation (ProlificDreamer, arXiv:2305.16213) with threestudio's keys.

    The critic draws (t, noise) of its own over all timesteps, and neither update knows perp-neg,
    as in threestudio. One UNet is kept if both model names are the same.
    """

    @dataclass
    class Config(host.BaseModule.Config):
        pretrained_model_name_or_path: str = "stabilityai/stable-diffusion-2-1-base"
        pretrained_model_name_or_path_lora: str = "stabilityai/stable-diffusion-2-1"
        enable_memory_efficient_attention: bool = False
        enable_sequential_cpu_offload: bool = False
        enable_attention_slicing: bool = False
        enable_channels_last_format: bool = False
        guidance_scale: float = 7.5
        guidance_scale_lora: float = 1.0
        """The critic's, from no camera to the camera; 1 is the critic that knows the camera."""
        grad_clip: Any | None = None
        half_precision_weights: bool = True
        lora_cfg_training: bool = True
        """Hide the camera from the critic's training pass with probability 0.1."""
        lora_n_timestamp_samples: int = 1
        """Draws of the critic per step."""

        min_step_percent: float = 0.02
        max_step_percent: float = 0.98
        """Fractions of the schedule between which the generator's t is drawn; or schedules."""
        sqrt_anneal: bool = False
        """Let one t for all items fall from the maximum to the minimum (HiFA)."""
        trainer_max_steps: int = 25000
        """The step at which ``sqrt_anneal`` reaches the minimum."""
        use_img_loss: bool = False

        view_dependent_prompting: bool = True
        """Of the teacher; the critic's prompt is the same for every view."""
        camera_condition_type: str = "extrinsics"
        """What the critic is told about the view: extrinsics, mvp or none."""

    cfg: Config

    def configure(self) -> None:
        self.asd = StableDiffusionASDGuidance(
            translated(self.cfg, method="vsd", gamma=0.0, share_noise=False)
        )
        self._told = False
        self.update_step(0, 0)

    def forward(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        rgb_as_latents: bool = False,
        **batch: Any,
    ) -> dict[str, Any]:
        """``loss_vsd`` and ``loss_lora`` of one step for renders in [0, 1] (or latents), and
        scalars for the log; angles in degrees."""
        if prompt_utils.use_perp_neg and not self._told:
            self._told = True
            host.info("stable-diffusion-vsd-guidance ignores use_perp_neg, as threestudio's does.")
        views = Views.of(batch)
        text = self.asd.conditions(prompt_utils, views, perp_neg=False)
        found = self.asd.distil(rgb, text, views, self.cfg.guidance_scale, rgb_as_latents)
        return found.losses("loss_vsd")
