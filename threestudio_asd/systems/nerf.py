"""A NeRF that a guidance shapes: what the registered 3D systems share."""

from typing import Any

from torch import Tensor

from threestudio_asd import host
from threestudio_asd.errors import UserError

from .guided import guidance_losses, log_weights, train_critic
from .losses import opaque_loss, orientation_loss, sparsity_loss, z_variance_loss


class NeRFSystem(host.BaseLift3DSystem):
    """Rendering, losses and pictures; subclasses say when the guidance is built and asked.

    Works with any guidance that returns ``loss_*`` terms: each is weighted by ``loss.lambda_*``.
    """

    def refuse_unimplemented(self) -> None:
        """Raises UserError for the stages and options of ``cfg`` that this host cannot run."""
        if self.cfg.stage != "coarse":
            raise UserError(
                f"system.stage '{self.cfg.stage}' is not implemented; use system.stage=coarse."
            )
        if self.cfg.visualize_samples:
            raise UserError("system.visualize_samples is not implemented; set it to false.")

    def build_guidance(self) -> None:
        """``prompt_utils`` and ``guidance``."""
        # The prompt first: a missing one is told before gigabytes of weights are read.
        self.prompt_processor = host.find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.prompt_utils = self.prompt_processor()
        self.guidance = host.find(self.cfg.guidance_type)(self.cfg.guidance)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.renderer(**batch)

    def guide(
        self, out: dict[str, Any], batch: dict[str, Any], **options: bool
    ) -> tuple[Tensor, dict[str, Any]]:
        """The weighted loss of the renders ``out``, logged, and what the guidance returned."""
        train_critic(self, out["comp_rgb"], batch)
        found = self.guidance(
            out["comp_rgb"], self.prompt_utils, **batch, rgb_as_latents=False, **options
        )
        loss = guidance_losses(self, found) + self._regularisation(out)
        log_weights(self)
        return loss, found

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
