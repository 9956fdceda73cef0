"""``stable-diffusion-sds-bridge-prompt-processor``: the extension threestudio-sds-bridge's."""

from dataclasses import dataclass, fields

from threestudio_asd.errors import UserError
from threestudio_asd.studio.base import BaseObject
from threestudio_asd.studio.models.prompt_processor.base import PromptProcessor, prompt_of
from threestudio_asd.studio.models.prompt_processor.output import PromptProcessorOutput
from threestudio_asd.studio.models.prompt_processor.stable_diffusion import (
    StableDiffusionPromptProcessor,
)
from threestudio_asd.studio.registry import register

_VIEWS = ("front", "side", "back", "overhead")


@dataclass
class BridgePrompts:
    """The ``prompt_utils`` of SDS-Bridge's guidance: both ends of the bridge."""

    source: PromptProcessorOutput
    target: PromptProcessorOutput


@register("stable-diffusion-sds-bridge-prompt-processor")
class SDSBridgePromptProcessor(BaseObject):
    """Two prompts from one (SDS-Bridge, arXiv:2406.09417): the target "{prompt}, {tgt_modifier}",
    and the source "{prompt}, {src_modifier}" or the modifier alone. Each is worded for the view and
    embedded as ``stable-diffusion-prompt-processor`` does it."""

    @dataclass
    class Config(PromptProcessor.Config):
        src_modifier: str = (
            "oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, "
            "malformed"
        )
        tgt_modifier: str = "."
        use_modifier_only: bool = True
        texture_inversion_embedding: str = ""

        # In place of the prompts made from ``prompt`` and the modifiers.
        src_prompt_front: str | None = None
        src_prompt_side: str | None = None
        src_prompt_back: str | None = None
        src_prompt_overhead: str | None = None
        tgt_prompt_front: str | None = None
        tgt_prompt_side: str | None = None
        tgt_prompt_back: str | None = None
        tgt_prompt_overhead: str | None = None

    cfg: Config

    def configure(self) -> None:
        cfg = self.cfg
        self._refuse_unimplemented()
        prompt = prompt_of(cfg)
        source = cfg.src_modifier if cfg.use_modifier_only else f"{prompt}, {cfg.src_modifier}"
        self.source = self._processor(source, "src")
        self.target = self._processor(f"{prompt}, {cfg.tgt_modifier}", "tgt")

    def __call__(self) -> BridgePrompts:
        return BridgePrompts(self.source(), self.target())

    def _processor(self, prompt: str, end: str) -> StableDiffusionPromptProcessor:
        """Of one end, which the keys call ``end``."""
        own = {f.name for f in fields(StableDiffusionPromptProcessor.Config)} - {"prompt"}
        shared = {key: self.cfg[key] for key in self.cfg if key in own}
        views = {f"prompt_{view}": self.cfg[f"{end}_prompt_{view}"] for view in _VIEWS}
        return StableDiffusionPromptProcessor({**shared, **views, "prompt": prompt})

    def _refuse_unimplemented(self) -> None:
        for view in _VIEWS:
            if self.cfg[f"prompt_{view}"]:
                raise UserError(
                    f"system.prompt_processor.prompt_{view} names neither end of the bridge; set "
                    f"src_prompt_{view} and tgt_prompt_{view}."
                )
        if self.cfg.texture_inversion_embedding:
            raise UserError(
                "system.prompt_processor.texture_inversion_embedding is not implemented; "
                "leave it empty, and word the modifiers."
            )
        if self.cfg.use_prompt_debiasing:
            raise UserError(
                "system.prompt_processor.use_prompt_debiasing does not go with SDS-Bridge, in "
                "threestudio-sds-bridge neither; set it to false."
            )
