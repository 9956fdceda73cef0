"""``sdi-system``, threestudio's: on the bundled host alone."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import host
from threestudio_asd.errors import UserError
from threestudio_asd.systems.builtin import DreamFusion
from threestudio_asd.systems.losses import convexity_loss


@host.register("sdi-system")
class ScoreDistillationViaInversion(DreamFusion):
    """``dreamfusion-system`` with a loss against hollows, ``lambda_convex``, and pictures of what
    the guidance makes of a render. (SDI, arXiv:2405.15891.)"""

    @dataclass
    class Config(DreamFusion.Config):
        convexity_res: int = 8
        """Side of the picture of normals that ``lambda_convex`` reads."""

    cfg: Config

    def configure(self) -> None:
        if self.cfg.convexity_res < 2:
            raise UserError(
                f"system.convexity_res must be at least 2, for there to be neighbours; "
                f"got {self.cfg.convexity_res}."
            )
        super().configure()

    def _regularisation(self, out: dict[str, Any]) -> Tensor:
        total = super()._regularisation(out)
        weight = self.C(self.cfg.loss.get("lambda_convex", 0.0))
        if weight > 0:
            loss = convexity_loss(self._normals(out), self.cfg.convexity_res)
            self.log("train/loss_convexity", loss)  # threestudio's name
            total = total + weight * loss
        return total

    def _normals(self, out: dict[str, Any]) -> Float[Tensor, "B H W 3"]:
        if "comp_normal" not in out:
            raise UserError(
                "loss.lambda_convex needs a picture of normals; set "
                "system.renderer.return_comp_normal=true and a material that needs normals "
                "(diffuse-with-point-light-material), or lambda_convex to 0."
            )
        return out["comp_normal"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        out = self(batch)
        filename = f"it{self.true_global_step}-{int(batch['index'][0])}.png"
        self._save_row(self.view(out) + self._guided(out["comp_rgb"], batch), filename, "val")

    def _guided(self, rgb: Tensor, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """x_t, its noise, the target, and the two differences between target and render; nothing
        before a training has built the guidance, or of one that shows none."""
        guidance = getattr(self, "guidance", None)
        if guidance is None:
            return []
        found = guidance(rgb, self.prompt_utils, **batch, rgb_as_latents=False, test_info=True)
        if "target" not in found:
            return []
        shown = [_resized(found[name], rgb) for name in ("noisy_img", "noise_img", "target")]
        difference = shown[-1] - rgb[0]
        kwargs = {"data_format": "HWC"}
        return [
            {"type": "rgb", "img": image, "kwargs": kwargs}
            for image in (*shown, difference, -difference)
        ]


def _resized(image: Float[Tensor, "h w 3"], like: Float[Tensor, "B H W 3"]) -> Tensor:
    rows, size = image.permute(2, 0, 1)[None], tuple(like.shape[1:3])
    resized = F.interpolate(rows, size, mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0)
