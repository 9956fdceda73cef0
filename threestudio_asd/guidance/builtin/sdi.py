"""``stable-diffusion-sdi-guidance``: threestudio's SDI."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.distill.guidance import (
    classifier_free_guidance,
    convert_threestudio_sds_scale,
)
from threestudio_asd.distill.noising import Views
from threestudio_asd.distill.predictions import Predictions
from threestudio_asd.guidance.asd import StableDiffusionASDGuidance
from threestudio_asd.guidance.builtin.on_asd import OnASD, linearly_annealed, translated

NAME = "stable-diffusion-sdi-guidance"
# Keys that threestudio's code has and never reads, or reads for pictures that it cannot make.
IGNORED = (
    *("weighting_strategy", "var_red", "use_img_loss", "grad_clip"),
    *("n_ddim_steps", "max_items_eval"),
)


@host.register(NAME)
class StableDiffusionSDIGuidance(OnASD, host.BaseObject):
    """Score distillation via inversion (arXiv:2405.15891) with threestudio's keys; the mathematics
    is that of ``distill.rows.sdi``, with the official code's inversion.

    Both guidance scales g mean e_y + g (e_y - e_null), and with perp-neg e_null + g (...), as in
    threestudio: 7.5 and -7.5 here are 8.5 and -6.5 in the other guidances, and themselves with
    perp-neg. Batches may have any size, threestudio's one; latents come as renders do, with
    channels last.
    """

    @dataclass
    class Config(host.BaseObject.Config):
        pretrained_model_name_or_path: str = "stabilityai/stable-diffusion-2-1-base"
        enable_memory_efficient_attention: bool = False
        enable_sequential_cpu_offload: bool = False
        enable_attention_slicing: bool = False
        enable_channels_last_format: bool = False
        guidance_scale: float = 100.0
        grad_clip: Any | None = None
        half_precision_weights: bool = True

        min_step_percent: float = 0.02
        max_step_percent: float = 0.98
        """Fractions of the schedule between which t is drawn; numbers or schedules."""
        trainer_max_steps: int = 10000
        """The step at which ``t_anneal`` reaches the minimum."""
        use_img_loss: bool = False
        var_red: bool = True
        weighting_strategy: str = "sds"

        token_merging: bool = False
        token_merging_params: dict | None = field(default_factory=dict)

        view_dependent_prompting: bool = True
        max_items_eval: int = 4
        n_ddim_steps: int = 50

        enable_sdi: bool = True
        """False draws the noise, as SDS does, in place of the inversion."""
        inversion_guidance_scale: float = -7.5
        inversion_n_steps: int = 10
        inversion_eta: float = 0.3
        """Of the noise that each step of the inversion adds."""
        t_anneal: bool = True
        """Let one t for all items fall from the maximum to the minimum, linearly."""

    cfg: Config

    def configure(self) -> None:
        cfg = self.cfg
        host.info(f"{NAME} ignores {', '.join(IGNORED)}, as threestudio's does.")
        read = {key: cfg[key] for key in cfg if key not in IGNORED}
        method: dict[str, Any] = {"method": "sdi-drawn"}
        if cfg.enable_sdi:
            keys = ("inversion_n_steps", "inversion_eta")
            method = {"method": "sdi", "settings": {key: cfg[key] for key in keys}}
        self.asd = StableDiffusionASDGuidance(translated(read, **method))
        self._told = False
        self.update_step(0, 0)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """``t_anneal``; ``self.asd``, which is updated first, follows the other schedules."""
        if self.cfg.t_anneal:
            self.anneal(linearly_annealed, epoch, global_step)

    def __call__(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        rgb_as_latents: bool = False,
        test_info: bool = False,
        **batch: Any,
    ) -> dict[str, Any]:
        """``loss_sdi`` of one step for renders in [0, 1] (or latents), and scalars for the log.

        Angles in degrees. With ``test_info`` also pictures (H, W, 3) of the first item:
        ``noisy_img`` (x_t), ``noise_img`` (its kappa) and ``target`` (the x_0 that e^s implies);
        ``target_latent`` and ``noise_pred`` are the latter's latents and e^s, of all items.
        """
        views = Views.of(batch)
        text = self.asd.conditions(prompt_utils, views)
        scale, inversion_scale = self._scales(perp_neg=text.negatives is not None)
        self.asd.settings |= {"inversion_guidance_scale": inversion_scale}
        found = self.asd.distil(rgb, text, views, scale, rgb_as_latents)
        out = found.losses("loss_sdi")
        return out | self._pictures(found.predictions, scale) if test_info else out

    def _scales(self, perp_neg: bool) -> tuple[float, float]:
        """The guidance scales of the step and of its inversion in our terms; told once."""
        keys = ("guidance_scale", "inversion_guidance_scale")
        given = [float(self.cfg[key]) for key in keys]
        ours = [convert_threestudio_sds_scale(scale, perp_neg) for scale in given]
        if not self._told:
            self._told = True
            start, case = ("e_null", "with") if perp_neg else ("e_y", "without")
            pairs = zip(keys, given, ours, strict=True)
            said = ", ".join(f"{key} {g:g} is s = {s:g}" for key, g, s in pairs)
            host.info(
                f"{NAME} counts its scales from {start}, as threestudio's does {case} perp-neg: of "
                f"e_null + s (e_y - e_null), {said}."
            )
        return ours[0], ours[1]

    @torch.no_grad()
    def _pictures(self, said: Predictions, scale: float) -> dict[str, Tensor]:
        guided = classifier_free_guidance(said["null"], said["cond"], scale)
        target = said.x0(guided)
        latents = {"target": target, "noisy_img": said.x_t, "noise_img": said.noise}
        images = {
            name: self.decode_latents(value[:1])[0].permute(1, 2, 0)
            for name, value in latents.items()
        }
        return {**images, "target_latent": target, "noise_pred": guided}
