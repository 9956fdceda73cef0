"""Systems with a 3D scene: geometry, material, background and renderer from a config."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.studio.checkpoint.conversion import earlier_geometry
from threestudio_asd.studio.device import cleanup
from threestudio_asd.studio.models.geometry.base import BaseGeometry
from threestudio_asd.studio.registry import find
from threestudio_asd.studio.systems.base import BaseSystem


class BaseLift3DSystem(BaseSystem):
    """Builds ``geometry``, ``material``, ``background`` and ``renderer``; exports the scene.

    Each part has a key ``<part>_type``, a registered name, and a key ``<part>``, its config.
    ``geometry_convert_from`` names a checkpoint of an earlier stage whose shape (and with
    ``geometry_convert_inherit_texture`` whose features) the geometry starts with;
    ``geometry_convert_override`` replaces keys of that stage's geometry config.
    """

    @dataclass
    class Config(BaseSystem.Config):
        geometry_type: str = ""
        geometry: dict = field(default_factory=dict)
        geometry_convert_from: str | None = None
        geometry_convert_inherit_texture: bool = False
        geometry_convert_override: dict = field(default_factory=dict)

        material_type: str = ""
        material: dict = field(default_factory=dict)

        background_type: str = ""
        background: dict = field(default_factory=dict)

        renderer_type: str = ""
        renderer: dict = field(default_factory=dict)

        guidance_type: str = ""
        guidance: dict = field(default_factory=dict)

        prompt_processor_type: str = ""
        prompt_processor: dict = field(default_factory=dict)

        exporter_type: str = "mesh-exporter"
        exporter: dict = field(default_factory=dict)

    cfg: Config

    def configure(self) -> None:
        self.geometry = self._make_geometry()
        self.material = find(self.cfg.material_type)(self.cfg.material)
        if hasattr(self.geometry, "initialize_colors") and not (self.resumed or self.cfg.weights):
            self.geometry.initialize_colors(self.material)
        self.background = find(self.cfg.background_type)(self.cfg.background)
        self.renderer = find(self.cfg.renderer_type)(
            self.cfg.renderer,
            geometry=self.geometry,
            material=self.material,
            background=self.background,
        )

    def _make_geometry(self) -> BaseGeometry:
        """A new geometry, or one made from an earlier stage's."""
        kind, cfg = find(self.cfg.geometry_type), self.cfg.geometry
        # As in threestudio: weights and a resumed checkpoint make both starts unnecessary.
        if self.resumed or self.cfg.weights:
            return kind(cfg)
        if not self.cfg.geometry_convert_from:
            geometry = kind(cfg)
            if hasattr(geometry, "initialize_shape"):
                geometry.initialize_shape()
            return geometry
        earlier = earlier_geometry(
            self.cfg.geometry_convert_from, self.cfg.geometry_convert_override
        )
        inherit = self.cfg.geometry_convert_inherit_texture
        geometry = kind.create_from(earlier, cfg, copy_net=inherit)
        del earlier
        cleanup()
        return geometry

    def on_fit_start(self) -> None:
        if self._save_dir is None:
            log.warn("No save folder is set: pictures will not be saved.")
        else:
            log.info("Validation pictures go to %s", self._save_dir)

    def on_test_end(self) -> None:
        log.info("Test results are in %s", self._save_dir)

    def on_predict_start(self) -> None:
        self.exporter = find(self.cfg.exporter_type)(
            self.cfg.exporter,
            geometry=self.geometry,
            material=self.material,
            background=self.background,
        )

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        if self.exporter.cfg.save_video:
            self.test_step(batch, batch_idx)

    def on_predict_epoch_end(self) -> None:
        if self.exporter.cfg.save_video:
            self.on_test_epoch_end()
        for output in self.exporter():
            save = getattr(self, f"save_{output.save_type}", None)
            if save is None:
                raise UserError(
                    f'exporter {self.cfg.exporter_type} asks for "save_{output.save_type}", which'
                    " systems do not have."
                )
            save(f"it{self.true_global_step}-export/{output.save_name}", **output.params)

    def on_predict_end(self) -> None:
        log.info("Exported files are in %s", self._save_dir)

    def guidance_evaluation_save(
        self, comp_rgb: Float[Tensor, "B H W C"], guidance_eval_out: dict[str, Any]
    ) -> None:
        """Save renders beside the guidance's pictures ``imgs_*`` (B, h, w, C), in [0, 1]."""
        height, width = comp_rgb.shape[1:3]

        def column(images: Tensor) -> dict[str, Any]:
            images = images.permute(0, 3, 1, 2).float()
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
            stacked = images.permute(0, 2, 3, 1).flatten(0, 1)
            return {"type": "rgb", "img": stacked, "kwargs": {"data_format": "HWC"}}

        pictures = [v for k, v in guidance_eval_out.items() if k.startswith("imgs_")]
        shown = min([len(comp_rgb), *(len(p) for p in pictures)])
        with torch.no_grad():
            columns = [column(p[:shown]) for p in [comp_rgb.detach(), *pictures]]
        self.save_image_grid(
            f"it{self.true_global_step}-train.png",
            columns,
            name="train_step",
            step=self.true_global_step,
            texts=guidance_eval_out.get("texts"),
        )
