"""Base class of prompt processors, whatever their text encoder."""

import json
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.log import debug, info
from threestudio_asd.studio.base import BaseObject
from threestudio_asd.studio.device import cleanup
from threestudio_asd.studio.models.prompt_processor.debiasing import ViewProbability, debias
from threestudio_asd.studio.models.prompt_processor.directions import view_directions
from threestudio_asd.studio.models.prompt_processor.output import PromptProcessorOutput

PROMPT_LIBRARY = Path("load/prompt_library.json")


class PromptProcessor(BaseObject):
    """Words a prompt for four view directions and embeds it; calling it gives the result.

    A subclass says how prompts are embedded (``embed_prompts``).
    """

    @dataclass
    class Config(BaseObject.Config):
        """threestudio's keys and defaults, except that ``prompt`` has no default."""

        prompt: str = "???"

        # In place of the prompts made from ``prompt``.
        prompt_front: str | None = None
        prompt_side: str | None = None
        prompt_back: str | None = None
        prompt_overhead: str | None = None

        negative_prompt: str = ""
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        overhead_threshold: float = 60.0  # degrees, as the next two
        front_threshold: float = 45.0
        back_threshold: float = 45.0
        view_dependent_prompt_front: bool = False  # "front view of X" instead of "X, front view"
        use_cache: bool = True
        spawn: bool = True  # without effect: prompts are embedded in this process

        use_perp_neg: bool = False
        # Perp-neg's weights are -(a exp(-b r) + c), r between two views.
        perp_neg_f_sb: tuple[float, float, float] = (1, 0.5, -0.606)
        perp_neg_f_fsb: tuple[float, float, float] = (1, 0.5, +0.967)
        perp_neg_f_fs: tuple[float, float, float] = (4, 0.5, -2.426)
        perp_neg_f_sf: tuple[float, float, float] = (4, 0.5, -2.426)

        use_prompt_debiasing: bool = False
        pretrained_model_name_or_path_prompt_debiasing: str = "bert-base-uncased"
        prompt_debiasing_mask_ids: list[int] | None = None  # words that may be dropped; all if null

    cfg: Config

    def configure(self) -> None:
        cfg = self.cfg
        self.directions = view_directions(
            cfg.front_threshold,
            cfg.back_threshold,
            cfg.overhead_threshold,
            name_first=cfg.view_dependent_prompt_front,
        )
        self.direction2idx = {d.name: i for i, d in enumerate(self.directions)}
        self.prompt, self.negative_prompt = prompt_of(cfg), cfg.negative_prompt
        self.prompts_vd = self._prompts_vd()
        self.negative_prompts_vd = [
            d.negative_prompt(self.negative_prompt) for d in self.directions
        ]
        info(f"Prompt [{self.prompt}], negative prompt [{self.negative_prompt}]")
        views = zip(self.directions, self.prompts_vd, strict=True)
        debug("View-dependent prompts: " + ", ".join(f"{d.name} [{p}]" for d, p in views))
        self._load_embeddings()

    @abstractmethod
    def embed_prompts(self, prompts: list[str]) -> dict[str, Float[Tensor, "L D"]]:
        """The embedding of each prompt (repetitions allowed)."""

    def __call__(self) -> PromptProcessorOutput:
        return PromptProcessorOutput(
            text_embeddings=self.text_embeddings,
            uncond_text_embeddings=self.uncond_text_embeddings,
            text_embeddings_vd=self.text_embeddings_vd,
            uncond_text_embeddings_vd=self.uncond_text_embeddings_vd,
            directions=self.directions,
            direction2idx=self.direction2idx,
            use_perp_neg=self.cfg.use_perp_neg,
            perp_neg_f_sb=tuple(self.cfg.perp_neg_f_sb),
            perp_neg_f_fsb=tuple(self.cfg.perp_neg_f_fsb),
            perp_neg_f_fs=tuple(self.cfg.perp_neg_f_fs),
            perp_neg_f_sf=tuple(self.cfg.perp_neg_f_sf),
            prompt=self.prompt,
            prompts_vd=self.prompts_vd,
        )

    def _load_embeddings(self) -> None:
        single = [self.prompt, self.negative_prompt]
        embeddings = self.embed_prompts(single + self.prompts_vd + self.negative_prompts_vd)
        cleanup()  # of the text encoder

        def stack(prompts: list[str]) -> Float[Tensor, "N L D"]:
            return torch.stack([embeddings[prompt] for prompt in prompts]).to(self.device)

        self.text_embeddings = stack([self.prompt])
        self.uncond_text_embeddings = stack([self.negative_prompt])
        self.text_embeddings_vd = stack(self.prompts_vd)
        self.uncond_text_embeddings_vd = stack(self.negative_prompts_vd)

    def _prompts_vd(self) -> list[str]:
        names = [d.name for d in self.directions]
        given = {name: self.cfg[f"prompt_{name}"] for name in names}
        if not self.cfg.use_prompt_debiasing:
            return [given[d.name] or d.prompt(self.prompt) for d in self.directions]
        if any(given.values()):
            keys = ", ".join(f"prompt_{name}" for name, prompt in given.items() if prompt)
            raise UserError(f"Prompt debiasing makes the views' prompts itself: remove {keys}.")
        probability = ViewProbability(
            self.cfg.pretrained_model_name_or_path_prompt_debiasing, names
        )
        prompts = debias(self.prompt, names, probability, self.cfg.prompt_debiasing_mask_ids)
        worded = [d.prompt(p) for d, p in zip(self.directions, prompts, strict=True)]
        info("Debiased prompts: " + ", ".join(f"[{prompt}]" for prompt in worded))
        return worded


def prompt_of(cfg: Any) -> str:
    """The prompt that ``cfg`` gives or names (lib:...).

    Raises UserError if there is none.
    """
    if OmegaConf.is_missing(cfg, "prompt") or not cfg.prompt.strip():
        raise UserError(
            'There is no prompt: add system.prompt_processor.prompt="a red mug" to the '
            "command line or the config."
        )
    if cfg.prompt.startswith("lib:"):
        return _from_library(cfg.prompt.removeprefix("lib:"))
    return cfg.prompt


def _from_library(keywords: str) -> str:
    """The one DreamFusion prompt that holds all keywords (separated by underscores)."""
    if not PROMPT_LIBRARY.exists():
        raise UserError(
            f"The prompt lib:{keywords} refers to {PROMPT_LIBRARY}, which does not exist here: "
            "write the prompt out."
        )
    library = json.loads(PROMPT_LIBRARY.read_text())["dreamfusion"]
    words = keywords.lower().split("_")
    matches = [p for p in library if all(word in p.lower() for word in words)]
    if len(matches) != 1:
        shown = "; ".join(matches[:3]) or "none"
        raise UserError(
            f"The prompt lib:{keywords} must fit exactly one prompt of {PROMPT_LIBRARY}, not "
            f"{len(matches)} ({shown})."
        )
    return matches[0]
