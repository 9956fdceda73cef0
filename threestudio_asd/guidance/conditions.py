"""What the prompt says of each view in a batch: the conditions of a step, by prediction."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.noising import Views
from threestudio_asd.distill.predictions import register_prediction
from threestudio_asd.registry import Registry
from threestudio_asd.teachers.condition import Condition

Words = Callable[[Any, Views], Condition]
#: Conditions of predictions beyond null and cond, from ``prompt_utils`` and the views.
CONDITIONS: Registry[Words] = Registry("condition")


def register_condition(name: str, meaning: str) -> Callable[[Words], Words]:
    """Decorator: register ``(prompt_utils, views) -> Condition`` as how the teacher is asked for
    the prediction ``name``; terms may read it from then on."""

    def register(function: Words) -> Words:
        register_prediction(name, meaning)
        CONDITIONS.add(name, function)
        return function

    return register


@dataclass(frozen=True, eq=False)
class Conditions(Mapping[str, Condition]):
    """Conditions of a batch, by the name of the prediction that they ask for.

    Args:
        texts: ``cond`` (e_y's prompt, view-dependent), ``null`` (the unconditional or negative
            prompt) and others that a method declares.
        critic: The critic's prompt, the same for every view; with the camera if it is told.
        negatives: Perp-neg's K prompts for each item; row b K + k belongs to item b.
        negative_weights: Their weights, with threestudio's sign (negative repels).
    """

    texts: Mapping[str, Condition]
    critic: Condition
    negatives: Condition | None = None
    negative_weights: Float[Tensor, "B K"] | None = None

    @classmethod
    def of_views(
        cls,
        prompt_utils: Any,
        views: Views,
        view_dependent: bool = True,
        perp_neg: bool = True,
        names: Iterable[str] = (),
        further: Mapping[str, Condition] = {},
    ) -> "Conditions":
        """From a prompt processor's output.

        Args:
            perp_neg: False leaves the negatives out, whatever the prompt processor says.
            names: What is to be asked for; what is registered as a condition is looked up.
            further: Conditions of predictions with prompts of their own.
        """
        batch = len(views)
        plain = Condition(prompt_utils.get_text_embeddings(*views.angles, False)[:batch])
        others = {n: CONDITIONS.get(n)(prompt_utils, views) for n in names if n in CONDITIONS}
        others |= further
        if not (perp_neg and prompt_utils.use_perp_neg):
            both = prompt_utils.get_text_embeddings(*views.angles, view_dependent)
            cond, null = Condition(both[:batch]), Condition(both[batch:])
            return cls({"null": null, "cond": cond, **others}, plain)
        rows, weights = prompt_utils.get_text_embeddings_perp_neg(*views.angles, view_dependent)
        cond, null = Condition(rows[:batch]), Condition(rows[batch : 2 * batch])
        texts = {"null": null, "cond": cond, **others}
        return cls(texts, plain, Condition(rows[2 * batch :]), weights)

    def __getitem__(self, name: str) -> Condition:
        return self.texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def seen_from(self, camera: Float[Tensor, "B 4 4"]) -> "Conditions":
        """The same; the teacher is told ``camera``, too."""
        texts = {name: replace(text, camera=camera) for name, text in self.texts.items()}
        return replace(self, texts=texts)

    def with_camera(self, camera: Float[Tensor, "B 4 4"] | None) -> "Conditions":
        """The same; the critic is told ``camera``."""
        return replace(self, critic=replace(self.critic, camera=camera))

    def repeat(self, times: int) -> "Conditions":
        """The whole batch ``times`` times over."""
        if times == 1:
            return self
        weights = self.negative_weights
        return Conditions(
            {name: text.repeat(times) for name, text in self.texts.items()},
            self.critic.repeat(times),
            self.negatives and self.negatives.repeat(times),
            weights if weights is None else weights.repeat(times, 1),
        )

    def rows(self, which: slice | Tensor) -> "Conditions":
        """Some items of the batch, by a slice or a tensor of indices."""
        negatives, weights = self.negatives, self.negative_weights
        if negatives is not None and weights is not None:
            batch, k = weights.shape
            index = torch.arange(batch * k, device=weights.device).view(batch, k)
            negatives = negatives[index[which].flatten()]
            weights = weights[which]
        return Conditions(
            {name: text[which] for name, text in self.texts.items()},
            self.critic[which],
            negatives,
            weights,
        )
