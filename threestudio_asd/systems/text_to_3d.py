"""A 3D scene that a guidance shapes, stage by stage: what the registered 3D systems share.

As in ProlificDreamer (arXiv:2305.16213): ``coarse`` shapes and colours a NeRF, ``geometry`` the
shape of a mesh by pictures of its normals, ``texture`` the colours of a mesh whose shape stays.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from threestudio_asd import host
from threestudio_asd.errors import UserError
from threestudio_asd.systems.guided import guidance_losses, log_weights, train_critic
from threestudio_asd.systems.losses import (
    eikonal_loss,
    opaque_loss,
    orientation_loss,
    sparsity_loss,
    z_variance_loss,
)

STAGES = ("coarse", "geometry", "texture")


class TextTo3DSystem(host.BaseLift3DSystem):
    """Rendering, losses and pictures; subclasses say when the guidance is built and asked.

    Works with any guidance that returns ``loss_*`` terms: each is weighted by ``loss.lambda_*``.
    """

    @property
    def stage(self) -> str:
        """One of ``STAGES``; systems without the key have the coarse one alone."""
        return getattr(self.cfg, "stage", "coarse")

    def refuse_unimplemented(self) -> None:
        """Raises UserError for the stages and options of ``cfg`` that this host cannot run."""
        if self.stage not in STAGES:
            raise UserError(f"system.stage is '{self.stage}'; use {'|'.join(STAGES)}.")
        if self.cfg.visualize_samples:
            raise UserError("system.visualize_samples is not implemented; set it to false.")

    def build_guidance(self) -> None:
        """``prompt_utils`` and ``guidance``."""
        # The prompt first: a missing one is told before gigabytes of weights are read.
        self.prompt_processor = host.find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.prompt_utils = self.prompt_processor()
        self.guidance = host.find(self.cfg.guidance_type)(self.cfg.guidance)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.stage == "geometry":
            return self.renderer(**batch, render_rgb=False)
        return self.renderer(**batch)

    def guide(
        self, out: dict[str, Any], batch: dict[str, Any], **options: bool
    ) -> tuple[Tensor, dict[str, Any]]:
        """The weighted loss of the renders ``out``, logged, and what the guidance returned."""
        images = self.guided_images(out)
        train_critic(self, images, batch)
        # What the scene stands before, for guidances that compare with pictures of their own, and
        # where its surface is, for those whose noise keeps to it.
        shown = ("comp_rgb_bg", "depth", "opacity")
        seen = {**batch, **{key: out[key] for key in shown if key in out}}
        found = self.guidance(images, self.prompt_utils, **seen, rgb_as_latents=False, **options)
        loss = guidance_losses(self, found) + self._regularisation(out)
        log_weights(self)
        return loss, found

    def guided_images(self, out: dict[str, Any]) -> Tensor:
        """The renders of ``out`` for the guidance, (B, H, W, 3) in [0, 1]."""
        return self._of_mesh(out, "comp_normal") if self.stage == "geometry" else out["comp_rgb"]

    def _regularisers(self, out: dict[str, Any]) -> dict[str, Callable[[], Tensor]]:
        """The terms of the present stage."""
        if self.stage == "coarse":
            return {
                "sparsity": lambda: sparsity_loss(out["opacity"]),
                "opaque": lambda: opaque_loss(out["opacity"]),
                "orient": lambda: self._orientation(out),
                "z_variance": lambda: z_variance_loss(out["z_variance"], out["opacity"]),
                "eikonal": lambda: self._eikonal(out),
            }
        if self.stage == "geometry":
            return {
                "normal_consistency": lambda: self._of_mesh(out, "mesh").normal_consistency(),
                "laplacian_smoothness": lambda: self._of_mesh(out, "mesh").laplacian(),
            }
        return {}

    def _regularisation(self, out: dict[str, Any]) -> Tensor:
        """The weighted regularisers; a term of weight 0 is not computed."""
        total = out["opacity"].new_zeros(())
        for name, compute in self._regularisers(out).items():
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

    def _eikonal(self, out: dict[str, Any]) -> Tensor:
        if "sdf_grad" not in out:
            raise UserError(
                "loss.lambda_eikonal needs the gradient of a signed distance, which "
                f"{self.cfg.renderer_type} does not return; set it to 0."
            )
        return eikonal_loss(out["sdf_grad"])

    def _of_mesh(self, out: dict[str, Any], key: str) -> Any:
        if key not in out:
            raise UserError(
                "system.stage=geometry needs a renderer that draws meshes; set "
                "system.renderer_type=nvdiff-rasterizer."
            )
        return out[key]

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
        """What :meth:`view` shows of the batch's scene, side by side."""
        self._save_row(self.view(self(batch)), filename, phase)

    def view(self, out: dict[str, Any]) -> list[dict[str, Any]]:
        """Colours and normals where there are any, and opacity, of the first render of ``out``."""
        images = []
        if "comp_rgb" in out:
            kwargs = {"data_format": "HWC"}
            images.append({"type": "rgb", "img": out["comp_rgb"][0], "kwargs": kwargs})
        if "comp_normal" in out:
            kwargs = {"data_format": "HWC", "data_range": (0, 1)}
            images.append({"type": "rgb", "img": out["comp_normal"][0], "kwargs": kwargs})
        kwargs = {"cmap": None, "data_range": (0, 1)}
        opacity = out["opacity"][0, :, :, 0]
        images.append({"type": "grayscale", "img": opacity, "kwargs": kwargs})
        return images

    def _save_row(self, images: list[dict[str, Any]], filename: str, phase: str) -> None:
        self.save_image_grid(filename, images, name=f"{phase}_step", step=self.true_global_step)
