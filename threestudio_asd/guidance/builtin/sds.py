"""``stable-diffusion-guidance``: threestudio's SDS and SJC."""

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.distill.guidance import convert_threestudio_sds_scale
from threestudio_asd.distill.noising import Views
from threestudio_asd.guidance.asd import StableDiffusionASDGuidance
from threestudio_asd.guidance.builtin.on_asd import OnASD, translated
from threestudio_asd.guidance.pictures import captions
from threestudio_asd.guidance.sampling import samples


@host.register("stable-diffusion-guidance")
class StableDiffusionGuidance(OnASD, host.BaseObject):
    """Score distillation sampling (DreamFusion, arXiv:2209.14988) with threestudio's keys.

    ``guidance_scale`` g means e_y + g (e_y - e_null), and with perp-neg e_null + g (...), as in
    threestudio: 100 here is 101 in the other guidances, and 100 with perp-neg.
    """

    @dataclass
    class Config(host.BaseObject.Config):
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
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
        sqrt_anneal: bool = False
        """Let one t for all items fall from the maximum to the minimum (HiFA)."""
        trainer_max_steps: int = 25000
        """The step at which ``sqrt_anneal`` reaches the minimum."""
        use_img_loss: bool = False

        use_sjc: bool = False
        """Score Jacobian chaining: w = 1, whatever the weighting; see ``distill.methods.SJC``."""
        var_red: bool = True
        """With ``use_sjc``: subtract the drawn noise."""
        weighting_strategy: str = "sds"

        token_merging: bool = False
        token_merging_params: dict | None = field(default_factory=dict)

        view_dependent_prompting: bool = True
        max_items_eval: int = 4
        """Items of which ``guidance_eval`` makes pictures; -1 for all."""

    cfg: Config

    def configure(self) -> None:
        method = {"method": "sds"}
        if self.cfg.use_sjc:
            method = {
                "method": "sds" if self.cfg.var_red else "sjc",
                "weighting_strategy": "uniform",
            }
        self.asd = StableDiffusionASDGuidance(translated(self.cfg, **method))
        self.update_step(0, 0)

    def __call__(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        rgb_as_latents: bool = False,
        guidance_eval: bool = False,
        **batch: Any,
    ) -> dict[str, Any]:
        """``loss_sds`` of one step for renders in [0, 1] (or latents), and scalars for the log.

        Angles in degrees. With ``guidance_eval`` also ``eval``: threestudio's pictures of what the
        teacher makes of the step, which cost up to 50 evaluations of the UNet for each item.
        """
        views = Views.of(batch)
        text = self.asd.conditions(prompt_utils, views)
        perp_neg = text.negatives is not None
        scale = convert_threestudio_sds_scale(self.cfg.guidance_scale, perp_neg)
        found = self.asd.distil(rgb, text, views, scale, rgb_as_latents)
        out = found.losses("loss_sds")
        if guidance_eval:
            n = self.cfg.max_items_eval
            shown = slice(n if n > 0 else None)
            out["eval"] = samples(self.teacher, found.predictions, text, scale, shown)
            levels = [f"n{level:.2f}" for level in out["eval"]["noise_levels"]]
            out["eval"]["texts"] = captions(levels, *(angle[shown] for angle in views.angles))
        return out
