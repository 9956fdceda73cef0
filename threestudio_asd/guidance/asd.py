"""``stable-diffusion-asd-guidance``: the config keys of the official fork, and a few of ours."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.critics.base import CRITICS
from threestudio_asd.distill.noising import NoisyBatch, Views
from threestudio_asd.distill.timesteps import TimestepRange
from threestudio_asd.fields import NoiseFields
from threestudio_asd.guidance import checks
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.config import ASDConfig
from threestudio_asd.guidance.inputs.latents import as_latents, encoded, views_of
from threestudio_asd.guidance.inputs.texts import Texts, own_words, wordings
from threestudio_asd.guidance.memory import save_memory
from threestudio_asd.guidance.pictures import evaluation
from threestudio_asd.guidance.reals import real_pictures, terms_at, weight_at
from threestudio_asd.guidance.sides import places
from threestudio_asd.guidance.step import DistillationStep, Distilled
from threestudio_asd.teachers.base import TEACHERS
from threestudio_asd.teachers.views import check_groups


@host.register("stable-diffusion-asd-guidance")
class StableDiffusionASDGuidance(host.BaseModule):
    """Adversarial score distillation from a Stable Diffusion teacher.

    Its parameters are the critic's (``guidance`` in the optimizer section trains it), its state
    the critic's and the noise fields'; the frozen teacher is part of neither.
    """

    Config = ASDConfig
    cfg: ASDConfig
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
        self.reals = None
        self._read_reals()
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
        self.real_weight = weight_at(cfg.real_weight, epoch, global_step)

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
        self._read_reals(prompt_utils)
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
        terms = found.critic_terms | self._real_terms(len(latents))
        return dataclasses.replace(found, critic_terms=terms, timesteps=self.timesteps)

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
            terms = self.step.critic_terms(noisy, text, self._hide_camera())
            yield sum((terms | self._real_terms(len(latents))).values())

    def _read_reals(self, prompt_utils: Any = None) -> None:
        """Real pictures, where they are wanted and not yet there."""
        if self.reals is None and self.cfg.real_weight != 0:
            methods = [step.method for step in self.steps.values()]
            prompt = None if prompt_utils is None else prompt_utils.prompt
            self.reals = real_pictures(self.cfg, self.teacher, methods, prompt)

    def _real_terms(self, count: int) -> dict[str, Tensor]:
        """The critic's terms at as many real pictures as there are renders; none at weight 0."""
        if self.reals is None or self.real_weight == 0.0 or self.step.method.critic is None:
            return {}
        within = self.timesteps if self.share_noise else self._between(0.0, 1.0)
        latents, said = self.reals.draw(count)
        t, noise = within.sample(count, latents.device), torch.randn_like(latents)
        noisy = NoisyBatch.of(self.teacher.schedule, latents, t, noise)
        models = (self.teacher, self.critic)
        return terms_at(noisy, said, *models, self.real_weight, self.cfg.real_attraction)

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
