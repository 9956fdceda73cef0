"""``stable-diffusion-sds-bridge-guidance``: the extension threestudio-sds-bridge's."""

from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.distill.noising import Views
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.asd import StableDiffusionASDGuidance
from threestudio_asd.guidance.builtin.on_asd import OnASD, translated
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.teachers.condition import Condition

NAME = "stable-diffusion-sds-bridge-guidance"


@host.register(NAME)
class SDSBridgeGuidance(OnASD, host.BaseModule):
    """SDS, then SDS-Bridge (arXiv:2406.09417) from ``stage_two_start_step`` on, with the keys of
    threestudio-sds-bridge; the mathematics is that of ``distill.rows.bridge``.

    Stage two begins at that step or after it: the extension compares for equality, so that one of
    its trainings that is resumed in stage two goes on in stage one. Batches may have any size, the
    extension's one.

    It is a module without parameters or state, which an optimizer section may name, as the
    published one does.
    """

    @dataclass
    class Config(host.BaseModule.Config):
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        enable_memory_efficient_attention: bool = False
        enable_sequential_cpu_offload: bool = False
        enable_attention_slicing: bool = False
        enable_channels_last_format: bool = False
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

        var_red: bool = True
        weighting_strategy: str = "sds"
        """w(t) of both stages; the first one's gradient is multiplied by sigma^2 besides."""

        token_merging: bool = False
        token_merging_params: dict | None = field(default_factory=dict)

        view_dependent_prompting: bool = True
        max_items_eval: int = 4

        num_inference_steps: int = 500
        guidance_scale: float = 100.0
        """s of e_null + s (e_target - e_null) in stage one; stage two has none."""
        stage_one_weight: float = 1.0
        """Factors of the stages' gradients."""
        stage_two_weight: float = 100.0
        stage_two_start_step: int = 20000

    cfg: Config

    def configure(self) -> None:
        cfg = self.cfg
        if cfg.stage_two_start_step < 0:
            raise UserError(
                "system.guidance.stage_two_start_step must not be negative; "
                f"got {cfg.stage_two_start_step}. A step after the last one leaves stage two out."
            )
        settings = {"bridge_scale": cfg.stage_two_weight}
        if cfg.stage_two_start_step > 0:
            settings["stage_one_weight"] = cfg.stage_one_weight
        stages = {0: "sds-bridge-first", cfg.stage_two_start_step: "sds-bridge-3d"}
        self.asd = StableDiffusionASDGuidance(translated(cfg, method=stages, settings=settings))
        ignored = "var_red, num_inference_steps and max_items_eval"
        host.info(f"{NAME} ignores {ignored}, as threestudio-sds-bridge's does.")
        host.info(f"{NAME}: stage two begins at step {cfg.stage_two_start_step}.")
        self._told = False
        self.update_step(0, 0)

    def forward(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        rgb_as_latents: bool = False,
        **batch: Any,
    ) -> dict[str, Any]:
        """``loss_sds`` of one step for renders in [0, 1] (or latents), and scalars for the log.

        Args:
            prompt_utils: Of ``stable-diffusion-sds-bridge-prompt-processor``.
            batch: threestudio's cameras, angles in degrees.

        Raises:
            UserError: Another prompt processor's ``prompt_utils``.
        """
        views = Views.of(batch)
        text = self._conditions(prompt_utils, views)
        found = self.asd.distil(rgb, text, views, self.cfg.guidance_scale, rgb_as_latents)
        return found.losses("loss_sds")

    def _conditions(self, prompt_utils: Any, views: Views) -> Conditions:
        """Of the predictions of both stages."""
        if not (hasattr(prompt_utils, "source") and hasattr(prompt_utils, "target")):
            raise UserError(
                f"{NAME} goes from one prompt to another; set system.prompt_processor_type to "
                "stable-diffusion-sds-bridge-prompt-processor, which makes both."
            )
        if prompt_utils.target.use_perp_neg and not self._told:
            self._told = True
            host.info(f"{NAME} ignores use_perp_neg, as threestudio-sds-bridge's does.")
        view_dependent = self.cfg.view_dependent_prompting
        text = Conditions.of_views(prompt_utils.target, views, view_dependent, perp_neg=False)
        rows = prompt_utils.source.get_text_embeddings(*views.angles, view_dependent)
        ends = {"bridge_source": Condition(rows[: len(views)]), "bridge_target": text["cond"]}
        return replace(text, texts={**text.texts, **ends})
