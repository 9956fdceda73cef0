"""``asd-2d-system``: particles of pixels or latents optimised by any guidance.

The smallest complete system: the generator's parameters are the images themselves.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threestudio_asd import host
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.inputs.latents import encoded_mean
from threestudio_asd.systems.guided import guidance_losses, log_weights, train_critic
from threestudio_asd.systems.masks import mask_of
from threestudio_asd.systems.originals import read_originals
from threestudio_asd.systems.starts import one_step_pictures
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher

_FROM_THE_ENDS = 1 / 512  # half a level of a picture of 8 bits


class Particles(nn.Module):
    """``n`` images of ``shape`` (C, H, W): latents as they are, or pixels in [0, 1].

    Pixels pass through a sigmoid, so that they stay in range whatever the optimiser does.
    """

    def __init__(self, n: int, shape: tuple[int, ...], latents: bool, init_std: float) -> None:
        super().__init__()
        self.latents = latents
        self.value = nn.Parameter(init_std * torch.randn(n, *shape))

    def forward(self, which: Int[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
        chosen = self.value[which]
        return chosen if self.latents else chosen.sigmoid()

    @torch.no_grad()
    def begin_as(self, images: Float[Tensor, "N C H W"]) -> None:
        """Latents as they are, or pixels in [0, 1]; the ends, which no sigmoid reaches, by a
        little."""
        images = images.to(self.value)
        self.value.copy_(images if self.latents else images.logit(_FROM_THE_ENDS))


@host.register("asd-2d-system")
class ASD2DSystem(host.BaseSystem):
    """Score distillation of ``n_particles`` images of one prompt.

    Each step draws ``data.batch_size`` different particles; the data module's cameras choose the
    view words of the prompt where the guidance is view-dependent.
    """

    @dataclass
    class Config(host.BaseSystem.Config):
        n_particles: int = 4
        parametrization: str = "latents"
        """``latents`` of the teacher, or ``pixels`` that are encoded in every step."""
        shape: list[int] | None = None
        """(C, H, W) of a particle; by default the latents or images that the teacher knows."""
        init_std: float = 1.0
        originals: str | None = None
        """Pictures to edit, as latents: one file for all particles, or a folder with one for each.
        Particles start as them, and the guidance is told them as ``reference`` (DDS, ASD's
        pair)."""
        mask: str | None = None
        """Where originals may change: a picture, white there, a folder with one for each, or
        ``auto``, where the predictions with both prompts differ. Elsewhere they stay."""
        guidance_type: str = ""
        guidance: dict = field(default_factory=dict)
        init_from: str | None = None
        """The folder of a one-step generator, whose pictures of the prompt the particles start as;
        ``init_std`` then says nothing."""
        prompt_processor_type: str = ""
        prompt_processor: dict = field(default_factory=dict)

    cfg: Config

    def configure(self) -> None:
        if self.cfg.parametrization not in ("latents", "pixels"):
            raise UserError(
                f"Unknown parametrization '{self.cfg.parametrization}'; "
                "choose one of: latents, pixels."
            )
        if self.cfg.originals is not None and self.cfg.init_from is not None:
            raise UserError(
                "system.originals and system.init_from both say what particles start as; name one."
            )
        if self.cfg.n_particles < 1:
            raise UserError(f"system.n_particles must be at least 1; got {self.cfg.n_particles}.")
        self.prompt_processor = host.find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.prompt_utils = self.prompt_processor()
        self.guidance = host.find(self.cfg.guidance_type)(self.cfg.guidance)
        latents = self.cfg.parametrization == "latents"
        self.particles = Particles(
            self.cfg.n_particles, self._shape(latents), latents, self.cfg.init_std
        )
        # A buffer: a resumed edit has the originals that it began with.
        self.register_buffer("originals", self._originals())
        if self.originals is not None:
            self.particles.begin_as(self.originals)
        elif self.cfg.init_from is not None:
            self.particles.begin_as(self._drawn())
        self.register_buffer("mask", self._mask())

    def _drawn(self) -> Float[Tensor, "N C H W"]:
        """What the generator ``init_from`` draws of the prompt."""
        cfg, teacher = self.cfg, getattr(self.guidance, "teacher", None)
        latents = teacher if cfg.parametrization == "latents" else None
        if cfg.parametrization == "latents" and not isinstance(teacher, StableDiffusionTeacher):
            raise UserError(
                "system.init_from gives a teacher's latents, and guidance_type "
                f"{cfg.guidance_type} has no such teacher; set system.parametrization=pixels."
            )
        prompt = cfg.prompt_processor["prompt"]
        found = one_step_pictures(cfg.init_from, prompt, cfg.n_particles, latents)
        if found.shape != self.particles.value.shape:
            raise UserError(
                f"system.shape must be {list(found.shape[1:])}, that of what the generator "
                f"{cfg.init_from} draws; got {list(self.particles.value.shape[1:])}."
            )
        return found

    @torch.no_grad()
    def _originals(self) -> Float[Tensor, "N C h w"] | None:
        cfg, teacher = self.cfg, getattr(self.guidance, "teacher", None)
        if cfg.originals is None:
            return None
        if teacher is None or not self.particles.latents:
            raise UserError(
                "system.originals are edited as a teacher's latents; set "
                "system.parametrization=latents, or leave them out."
            )
        pictures = read_originals(cfg.originals, cfg.n_particles, teacher.image_size)
        # As in DDS's notebook; what a draw added would stay in the edit.
        latents = encoded_mean(teacher, pictures.to(teacher.schedule.device))
        if latents.shape != self.particles.value.shape:
            raise UserError(
                f"system.shape must be {list(latents.shape[1:])}, that of the originals' latents; "
                f"got {list(cfg.shape)}. Leave it out."
            )
        return latents

    def _mask(self) -> Float[Tensor, "N 1 h w"] | None:
        if self.cfg.mask is None:
            return None
        if self.originals is None:
            raise UserError("system.mask is about originals; set system.originals, too.")
        source = dict(self.cfg.guidance).get("texts", {}).get("reference_cond", "")
        target = self.prompt_utils.prompt
        return mask_of(self.cfg.mask, self.guidance.teacher, self.originals, source, target)

    def _shape(self, latents: bool) -> tuple[int, ...]:
        teacher = getattr(self.guidance, "teacher", None)
        if self.cfg.shape is not None:
            shape = tuple(self.cfg.shape)
        elif teacher is None:
            raise UserError(
                f"system.shape must be given with guidance_type {self.cfg.guidance_type}, such as "
                "[4, 64, 64] for Stable Diffusion's latents."
            )
        else:
            shape = teacher.latent_shape if latents else (3, *[teacher.image_size] * 2)
        if len(shape) != 3 or (not latents and shape[0] != 3):
            raise UserError(
                f"system.shape must be [C, H, W], with C = 3 for pixels; got {list(shape)}."
            )
        return shape

    def forward(self, which: Int[Tensor, " B"]) -> Float[Tensor, "B H W C"]:
        """Particles as a render would come: channels last."""
        return self._shown(which).permute(0, 2, 3, 1)

    def _shown(self, which: Int[Tensor, " B"]) -> Float[Tensor, "B C H W"]:
        """Particles; outside of the mask what they are edits of."""
        values = self.particles(which)
        if self.mask is None:
            return values
        return torch.where(self.mask[which] > 0, values, self.originals[which])

    @torch.no_grad()
    def images(self) -> Float[Tensor, "N H W 3"]:
        """All particles as pictures in [0, 1]."""
        values = self._shown(torch.arange(self.cfg.n_particles, device=self.device))
        decoded = self.guidance.decode_latents(values) if self.particles.latents else values
        return decoded.permute(0, 2, 3, 1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        count = len(batch["elevation"])
        if count > self.cfg.n_particles:
            raise UserError(
                f"data.batch_size={count} exceeds system.n_particles={self.cfg.n_particles}."
            )
        which = torch.randperm(self.cfg.n_particles, device=self.device)[:count]
        rgb, latents = self(which), self.particles.latents
        batch = batch | {"particles": which}
        if self.originals is not None:
            batch = batch | {"reference": self.originals[which].permute(0, 2, 3, 1)}
        train_critic(self, rgb, batch, rgb_as_latents=latents)
        guidance_out = self.guidance(rgb, self.prompt_utils, **batch, rgb_as_latents=latents)
        log_weights(self)
        return {"loss": guidance_losses(self, guidance_out)}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        # Views mean nothing to an image: one picture whatever the number of cameras.
        if batch_idx == 0:
            self._save(f"it{self.true_global_step}-0.png", "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if batch_idx == 0:
            self._save(f"it{self.true_global_step}-test.png", "test")

    def _save(self, filename: str, phase: str) -> None:
        row = [
            {"type": "rgb", "img": image, "kwargs": {"data_format": "HWC"}}
            for image in self.images()
        ]
        self.save_image_grid(filename, row, name=f"{phase}_step", step=self.true_global_step)
