"""``asd-system``: a 3D model as generator, the guidance's critic as discriminator."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.errors import UserError
from threestudio_asd.systems.text_to_3d import TextTo3DSystem


@host.register("asd-system")
class ASDSystem(TextTo3DSystem):
    """Text-to-3D by score distillation; also registered as ``nerf-system-asd``, the fork's name."""

    @dataclass
    class Config(host.BaseLift3DSystem.Config):
        stage: str = "coarse"
        """coarse, geometry or texture."""
        visualize_samples: bool = False
        guidance_eval: bool = False
        """Save what teacher and critic make of the current render every 200 steps."""
        guidance_update: bool = False
        warmup_iter: int = 5000
        """With ``guidance_update``: steps over which the largest timestep falls from 0.98 to
        ``guidance.max_step_percent`` (a number)."""

    cfg: Config

    def configure(self) -> None:
        self.refuse_unimplemented()
        super().configure()
        self.build_guidance()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        out = self(batch)
        evaluate = self.cfg.guidance_eval and self.true_global_step % 200 == 0
        if self.cfg.guidance_update:
            self._anneal_timesteps()
        loss, found = self.guide(out, batch, guidance_eval=evaluate)
        if evaluate:
            self._save_evaluation(self.guided_images(out).detach(), found["eval"])
        return {"loss": loss}

    def _anneal_timesteps(self) -> None:
        final = self.guidance.cfg.max_step_percent
        if not isinstance(final, int | float):
            raise UserError(
                "system.guidance_update anneals max_step_percent itself and cannot follow a "
                "schedule; set system.guidance_update=false or max_step_percent to a number."
            )
        remaining = 1.0 - min(self.true_global_step / self.cfg.warmup_iter, 1.0)
        self.guidance.set_min_max_steps(max_step_percent=final + (0.98 - final) * remaining)

    @torch.no_grad()
    def _save_evaluation(self, rgb: Tensor, pictures: dict[str, Any]) -> None:
        """One row: render, noisy, teacher's one-step guesses, critic's, gradient strength."""
        names = ("imgs_noisy", "imgs_1step", "imgs_1orig", "imgs_1orig_lora", "imgs_final", "grad")
        size = rgb.shape[1:3]

        def column(images: Tensor) -> dict[str, Any]:
            resized = F.interpolate(images.permute(0, 3, 1, 2), size, mode="bilinear")
            stacked = resized.permute(0, 2, 3, 1).flatten(0, 1)
            return {"type": "rgb", "img": stacked, "kwargs": {"data_format": "HWC"}}

        rows = [rgb] + [pictures[name] for name in names if name in pictures]
        self.save_image_grid(
            f"it{self.true_global_step}-train.png",
            [column(images) for images in rows],
            name="train_step",
            step=self.true_global_step,
        )


host.register("nerf-system-asd")(ASDSystem)
