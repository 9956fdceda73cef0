"""``dreamfusion-system`` and ``prolificdreamer-system``, threestudio's, and its extensions'
``mvdream-system`` and ``sds-bridge-system``: on the bundled host alone.

The same losses and pictures as ``asd-system``; any guidance fits.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from threestudio_asd import host
from threestudio_asd.errors import UserError
from threestudio_asd.systems.text_to_3d import TextTo3DSystem


@host.register("dreamfusion-system")
class DreamFusion(TextTo3DSystem):
    """Text-to-3D by a guidance that learns nothing (DreamFusion, arXiv:2209.14988).

    The guidance is built when training starts, as in threestudio: testing and exporting read no
    teacher.
    """

    @dataclass
    class Config(host.BaseLift3DSystem.Config):
        pass

    cfg: Config

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.build_guidance()
        # It came after the optimiser and is not in checkpoints.
        if isinstance(self.guidance, nn.Module) and any(True for _ in self.guidance.parameters()):
            raise UserError(
                f"This system would not train the critic of {self.cfg.guidance_type}; "
                "set system_type to prolificdreamer-system or asd-system."
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self.guide(self(batch), batch)[0]}


@host.register("mvdream-system")
class MVDream(DreamFusion):
    """The same under threestudio-mvdream's name and with its key (MVDream, arXiv:2308.16512)."""

    @dataclass
    class Config(DreamFusion.Config):
        visualize_samples: bool = False

    cfg: Config

    def configure(self) -> None:
        self.refuse_unimplemented()
        super().configure()


@host.register("prolificdreamer-system")
class ProlificDreamer(TextTo3DSystem):
    """Text-to-3D by a guidance that may train a critic (ProlificDreamer, arXiv:2305.16213)."""

    @dataclass
    class Config(host.BaseLift3DSystem.Config):
        stage: str = "coarse"
        visualize_samples: bool = False

    cfg: Config

    def configure(self) -> None:
        self.refuse_unimplemented()
        super().configure()
        self.build_guidance()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self.guide(self(batch), batch)[0]}


@host.register("sds-bridge-system")
class SDSBridge(ProlificDreamer):
    """The same under threestudio-sds-bridge's name (SDS-Bridge, arXiv:2406.09417)."""
