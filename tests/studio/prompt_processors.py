"""A prompt processor on a small random model."""

from threestudio_asd.studio.models.prompt_processor import StableDiffusionPromptProcessor

NAMES = ["side", "front", "back", "overhead"]


def make(folder, **cfg):
    return StableDiffusionPromptProcessor(
        {"pretrained_model_name_or_path": str(folder), "prompt": "a red mug"} | cfg
    )
