"""``asd-system``: a 3D model as generator, the guidance's critic as discriminator."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.errors import UserError

from .guided import guidance_losses, log_weights
from .losses import opaque_loss, orientation_loss, sparsity_loss, z_variance_loss


@host.register("asd-system")
class ASDSystem(host.BaseLift3DSystem):
    """Text-to-3D by score distillation; also registered as ``nerf-system-asd``, the fork's name.

    Works with any guidance that returns ``loss_*`` terms: each is weighted by ``loss.lambda_*``.
    """

    @dataclass
    class Config(host.BaseLift3DSystem.Config):
        stage: str = "coarse"
        visualize_samples: bool = False
        guidance_eval: bool = False
        """Save what teacher and critic make of the current render every 200 steps."""
        guidance_update: bool = False
        warmup_iter: int = 5000
        """With ``guidance_update``: steps over which the largest timestep falls from 0.98 to
        ``guidance.max_step_percent`` (a number)."""

    cfg: Config

    def configure(self) -> None:
        if self.cfg.stage != "coarse":
            raise UserError(
                f"system.stage '{self.cfg.stage}' is not implemented; use system.stage=coarse."
            )
        if self.cfg.visualize_samples:
            raise UserError("system.visualize_samples is not implemented; set it to false.")
        super().configure()
        # The prompt first: a missing one is told before gigabytes of weights are read.
        self.prompt_processor = host.find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.prompt_utils = self.prompt_processor()
        self.guidance = host.find(self.cfg.guidance_type)(self.cfg.guidance)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.renderer(**batch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        out = self(batch)
        evaluate = self.cfg.guidance_eval and self.true_global_step % 200 == 0
        if self.cfg.guidance_update:
            self._anneal_timesteps()
        guidance_out = self.guidance(
            out["comp_rgb"],
            self.prompt_utils,
            **batch,
            rgb_as_latents=False,
            guidance_eval=evaluate,
        )
        loss = guidance_losses(self, guidance_out) + self._regularisation(out)
        log_weights(self)
        if evaluate:
            self._save_evaluation(out["comp_rgb"].detach(), guidance_out["eval"])
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

    def _regularisation(self, out: dict[str, Any]) -> Tensor:
        """The weighted regularisers of the coarse stage; a term of weight 0 is not computed."""
        terms = {
            "sparsity": lambda: sparsity_loss(out["opacity"]),
            "opaque": lambda: opaque_loss(out["opacity"]),
            "orient": lambda: self._orientation(out),
            "z_variance": lambda: z_variance_loss(out["z_variance"], out["opacity"]),
        }
        total = out["opacity"].new_zeros(())
        for name, compute in terms.items():
            weight = self.C(self.cfg.loss.get(f"lambda_{name}", 0.0))
            if weight > 0:
                value = compute()
                self.log(f"train/loss_{name}", value)
                total = total + weight * value
        return total

    def _orientation(self, out: dict[str, Any]) -> Tensor:
        if "normal" not in out:
            raise UserError(
                "loss.lambda_orient needs normals; set system.geometry.normal_type to "
                "finite_difference, pred or analytic, or lambda_orient to 0."
            )
        return orientation_loss(out["weights"], out["normal"], out["t_dirs"], out["opacity"])

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._save_view(batch, f"it{self.true_global_step}-{int(batch['index'][0])}.png", "val")

    def on_validation_epoch_end(self) -> None:
        pass

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        name = f"it{self.true_global_step}-test/{int(batch['index'][0])}.png"
        self._save_view(batch, name, "test")

    def on_test_epoch_end(self) -> None:
        folder = f"it{self.true_global_step}-test"
        self.save_img_sequence(
            folder,
            folder,
            r"(\d+)\.png",
            save_format="mp4",
            fps=30,
            name="test",
            step=self.true_global_step,
        )

    def _save_view(self, batch: dict[str, Any], filename: str, phase: str) -> None:
        """Colours, normals where there are any, and opacity, side by side."""
        out = self(batch)
        images = [{"type": "rgb", "img": out["comp_rgb"][0], "kwargs": {"data_format": "HWC"}}]
        if "comp_normal" in out:
            kwargs = {"data_format": "HWC", "data_range": (0, 1)}
            images.append({"type": "rgb", "img": out["comp_normal"][0], "kwargs": kwargs})
        kwargs = {"cmap": None, "data_range": (0, 1)}
        opacity = out["opacity"][0, :, :, 0]
        images.append({"type": "grayscale", "img": opacity, "kwargs": kwargs})
        self.save_image_grid(filename, images, name=f"{phase}_step", step=self.true_global_step)

    @torch.no_grad()
    def _save_evaluation(self, rgb: Tensor, pictures: dict[str, Any]) -> None:
        """One row: render, noisy, teacher's one-step guesses, critic's, gradient strength."""
        names = ("imgs_noisy", "imgs_1step", "imgs_1orig", "imgs_1orig_lora", "grad")
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
