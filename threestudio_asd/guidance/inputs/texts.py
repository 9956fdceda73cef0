"""Prompts of a method beside the user's own: the empty one, a description of what is bad, ..."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from threestudio_asd import host
from threestudio_asd.distill.noising import Views
from threestudio_asd.distill.predictions import MISSING, PREDICTIONS
from threestudio_asd.distill.settings import merged
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.base import Teacher
from threestudio_asd.teachers.condition import Condition

PROMPT = "{prompt}"


def wordings(given: Mapping[str, str], asked: Iterable[str]) -> dict[str, str]:
    """The words of each prediction that has a prompt of its own: the defaults, and those ``given``
    by ``system.guidance.texts``.

    Args:
        asked: The predictions that the method reads.

    Raises:
        UserError: ``given`` names another prediction, or one that is asked for has no words.
    """
    known = {name: PREDICTIONS.get(name).words for name in PREDICTIONS}
    defaults = {name: words for name, words in known.items() if words is not None}
    owner = "the predictions with prompts of their own"
    words = merged(defaults, given, "system.guidance.texts", owner)
    for name in asked:
        if words.get(name) == MISSING:
            meaning = PREDICTIONS.get(name).meaning
            raise UserError(f"The method needs system.guidance.texts.{name} ({meaning}); add it.")
    return words


def own_words(given: Mapping[str, str], asked: Iterable[str]) -> list[str]:
    """One line for each prediction that is ``asked`` for by the package's words, as ``given`` has
    none of the user's."""
    said = {name: PREDICTIONS.get(name).words for name in asked if name not in given}
    return [
        f"The prediction '{name}' is asked for with the published words, '{words}'; choose others "
        f"by system.guidance.texts.{name}."
        for name, words in sorted(said.items())
        if words
    ]


class Texts:
    """Embeds further prompts with the teacher's own text encoder, each once.

    A text with ``{prompt}`` in it is about the view, too: the prompt processor's directions name
    it as they name the user's prompt. Other texts are the same for all views.

    Args:
        words: By the prediction that they are for.
    """

    def __init__(self, teacher: Teacher, words: Mapping[str, str]) -> None:
        self.teacher, self.words = teacher, words
        self.embedded: dict[str, Condition] = {}
        self._heard: tuple[Any, bool] | None = None

    def conditions(
        self,
        names: Iterable[str],
        prompt_utils: Any,
        views: Views,
        view_dependent: bool,
        negative: str | None = None,
    ) -> dict[str, Condition]:
        """Conditions of those of ``names`` that have prompts of their own, at ``views``; and of
        ``null``, if its prompt is to be ``negative``: if the user's is empty.

        Raises:
            UserError: The teacher cannot embed texts.
        """
        own = [name for name in names if name in self.words]
        if not own and negative is None:
            return {}
        directions = prompt_utils.directions if view_dependent else [None]
        which = _directions(prompt_utils, views) if view_dependent else [0] * len(views)
        texts = {
            n: [_worded(self.words[n], prompt_utils.prompt, d) for d in directions] for n in own
        }
        if negative is not None:
            texts["null"] = [negative] * len(directions)
        # Of all views at once: no training step loads the text encoder again.
        further = () if negative is None else ("",)
        self._embed((*(text for said in texts.values() for text in said), *further))
        if negative is not None and self._has_negative(prompt_utils, negative):
            del texts["null"]
        return {
            name: Condition.concatenate([self.embedded[said[i]] for i in which])
            for name, said in texts.items()
        }

    def _has_negative(self, prompt_utils: Any, instead: str) -> bool:
        """Whether the user's negative prompt says anything, by its embedding: neither host hands
        on its words. If not, one line says so."""
        if self._heard is None or self._heard[0] is not prompt_utils:
            given = prompt_utils.uncond_text_embeddings[:1].float()
            nothing = self.embedded[""].tokens.to(given)
            # In half precision equal texts differ a little.
            differs = bool((given - nothing).norm() > 0.02 * nothing.norm())
            self._heard = (prompt_utils, differs)
            if not differs:
                host.info(
                    "The method lives from a negative prompt and there is none; it takes the "
                    f"published one, '{instead}'. Choose another by "
                    "system.prompt_processor.negative_prompt."
                )
        return self._heard[1]

    def _embed(self, texts: Iterable[str]) -> None:
        missing = [text for text in dict.fromkeys(texts) if text not in self.embedded]
        if missing:
            rows = self.teacher.embed_text(missing)
            self.teacher.release_text_encoder()
            self.embedded |= {text: rows[i : i + 1] for i, text in enumerate(missing)}


def _worded(words: str, prompt: str, direction: Any) -> str:
    if PROMPT not in words:
        return words
    text = words.replace(PROMPT, prompt)
    return text if direction is None else direction.prompt(text)


def _directions(prompt_utils: Any, views: Views) -> list[int]:
    """Which direction each view has; where several hold, the last counts (threestudio's rule)."""
    index = torch.zeros(len(views), dtype=torch.long, device=views.elevation.device)
    for i, direction in enumerate(prompt_utils.directions):
        index[direction.condition(*views.angles)] = i
    return index.tolist()
