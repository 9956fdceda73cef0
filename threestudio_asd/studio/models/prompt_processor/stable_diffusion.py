"""Text embeddings of models in Stable Diffusion's folder format."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.log import warn
from threestudio_asd.pretrained.files import content_hash
from threestudio_asd.pretrained.resolve import resolve_model
from threestudio_asd.pretrained.text_encoder import TEXT_COMPONENTS, TextEncoder
from threestudio_asd.studio.models.prompt_processor.base import PromptProcessor
from threestudio_asd.studio.models.prompt_processor.cache import EmbeddingCache
from threestudio_asd.studio.registry import register


@register("stable-diffusion-prompt-processor")
class StableDiffusionPromptProcessor(PromptProcessor):
    """Embeds prompts with the model's own text encoder, in this process, and lets go of it."""

    @dataclass
    class Config(PromptProcessor.Config):
        pass

    cfg: Config

    def embed_prompts(self, prompts: list[str]) -> dict[str, Float[Tensor, "L D"]]:
        """From the cache, or computed; warns of words that the model cannot see.

        Raises UserError if the model cannot be had.
        """
        folder = resolve_model(self.cfg.pretrained_model_name_or_path, TEXT_COMPONENTS)
        encoder = TextEncoder(folder, self.device)
        if told := encoder.unknown_told(prompts):
            warn(told)
        if cut := encoder.too_long(list(dict.fromkeys(prompts))):
            more = f", and so are {len(cut) - 1} more with it" if cut[1:] else ""
            warn(
                f"The prompt is longer than {encoder.max_length} tokens and is cut at its end, "
                f"where views are named{more}: [{cut[0]}]"
            )
        if not self.cfg.use_cache:
            return dict(zip(prompts, encoder(prompts), strict=True))
        return EmbeddingCache(content_hash(folder, TEXT_COMPONENTS)).embed(prompts, encoder)
