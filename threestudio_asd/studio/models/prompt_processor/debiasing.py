"""Prompt debiasing: drop words that contradict a view (Hong et al. 2023, arXiv:2303.15413)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.pretrained.resolve import resolve_model

#: A word goes where its pointwise mutual information ratio with the view is below this.
THRESHOLD = 0.95
ADVICE = (
    "Prompt debiasing needs a masked language model such as bert-base-uncased: give its folder as "
    "pretrained_model_name_or_path_prompt_debiasing, or set use_prompt_debiasing: false."
)


class ViewProbability:
    """p(view | prompt) over view names, from a masked language model."""

    def __init__(self, path_or_id: str, views: Sequence[str]) -> None:
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        folder = str(resolve_model(path_or_id, ("",), ADVICE))
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForMaskedLM.from_pretrained(folder).eval()
        ids = [self.tokenizer.encode(view, add_special_tokens=False) for view in views]
        if any(len(i) != 1 or i[0] == self.tokenizer.unk_token_id for i in ids):
            raise UserError(
                f"The masked language model {path_or_id} does not know each of {', '.join(views)} "
                f"as one word. {ADVICE}"
            )
        self.view_ids = torch.tensor(ids).flatten()

    @torch.no_grad()
    def __call__(self, prompt: str) -> Float[Tensor, " V"]:
        """Probabilities of the views; they sum to 1."""
        text = f"This image is depicting a {self.tokenizer.mask_token} view of {prompt}"
        tokens = self.tokenizer(text, truncation=True, return_tensors="pt")
        (position,) = torch.where(tokens.input_ids[0] == self.tokenizer.mask_token_id)
        return self.model(**tokens).logits[0, position[0], self.view_ids].softmax(dim=-1)


def debias(
    prompt: str,
    views: Sequence[str],
    probability: Callable[[str], Float[Tensor, " V"]],
    word_ids: Sequence[int] | None = None,
) -> list[str]:
    """One prompt for each view, without the words that make that view less likely.

    Word i is dropped from a view's prompt if p(view | prompt) is less than ``THRESHOLD`` times the
    mean of p(view | prompt) and p(view | prompt without i).

    Args:
        probability: p(view | prompt) for each of ``views``; a ``ViewProbability``.
        word_ids: Indices of the words that may be dropped; all by default.

    Raises:
        UserError: An index that the prompt does not have.
    """
    words = prompt.split()
    candidates = range(len(words)) if word_ids is None else list(word_ids)
    if wrong := [i for i in candidates if not 0 <= i < len(words)]:
        raise UserError(
            f"prompt_debiasing_mask_ids {wrong} are not words of the prompt '{prompt}': "
            f"use indices from 0 to {len(words) - 1}."
        )
    full = probability(prompt)
    dropped: list[set[int]] = [set() for _ in views]
    for i in candidates:
        without = probability(" ".join(words[:i] + words[i + 1 :]))
        ratio = full / (0.5 * (full + without))
        for view in torch.where(ratio < THRESHOLD)[0].tolist():
            dropped[view].add(i)
    return [" ".join(w for i, w in enumerate(words) if i not in drop) for drop in dropped]
