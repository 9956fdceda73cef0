"""From a prompt to text embeddings, per view direction, with or without perp-neg."""

from threestudio_asd.studio.models.prompt_processor.base import PromptProcessor
from threestudio_asd.studio.models.prompt_processor.directions import DirectionConfig
from threestudio_asd.studio.models.prompt_processor.output import PromptProcessorOutput
from threestudio_asd.studio.models.prompt_processor.sds_bridge import (
    SDSBridgePromptProcessor,
)
from threestudio_asd.studio.models.prompt_processor.stable_diffusion import (
    StableDiffusionPromptProcessor,
)

__all__ = [
    "DirectionConfig",
    "PromptProcessor",
    "PromptProcessorOutput",
    "SDSBridgePromptProcessor",
    "StableDiffusionPromptProcessor",
]
