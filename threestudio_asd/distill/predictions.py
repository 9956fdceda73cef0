"""Predictions of the networks at one noisy batch: the input of every term of every method."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.distill.prediction_types import converted
from threestudio_asd.distill.schedule import NoiseSchedule, Times
from threestudio_asd.distill.settings import Settings
from threestudio_asd.errors import UserError
from threestudio_asd.registry import Registry

#: Words that a config must give.
MISSING = "???"


@dataclass(frozen=True)
class Prediction:
    """What a prediction is, and what the teacher is asked for it.

    Args:
        meaning: In words.
        words: The default prompt, of a prediction with a prompt of its own: ``{prompt}`` stands for
            the user's, and a text that holds it names the view, too. ``MISSING`` has no default.
        at: The noising's extra at which the teacher is asked; None is x_t.
        like: The prediction whose prompt it shares; None is none.
        against: Of a critic's prediction: the teacher's that it is held against, at the same
            latents with the same prompt; None is the teacher's own.
    """

    meaning: str
    words: str | None = None
    at: str | None = None
    like: str | None = None
    against: str | None = None


#: The predictions that a step can be asked for. Guidance modules know how.
PREDICTIONS: Registry[Prediction] = Registry("prediction")


def register_prediction(
    name: str,
    meaning: str,
    words: str | None = None,
    at: str | None = None,
    like: str | None = None,
    against: str | None = None,
) -> None:
    """Let terms read ``name``; see :class:`Prediction`."""
    PREDICTIONS.add(name, Prediction(meaning, words, at, like, against))


register_prediction("null", "e_null, the teacher without a prompt (or with the negative one)")
register_prediction("cond", "e_y, the teacher with the view's prompt; with perp-neg, e_y'")
register_prediction("critic", "e_phi, where the method has a critic", against="cond")
register_prediction("perpneg", "e_y' - e_y, what perp-neg adds to e_y; 0 without it")
register_prediction("empty", 'e_0, the teacher with the prompt ""', words="")


@dataclass(frozen=True, eq=False)
class Predictions(Mapping[str, Tensor]):
    """Predictions by name, all in epsilon space, each (B, C, H, W).

    What a method declares is there and nothing else: another name is a UserError that says so.

    Args:
        noisy: The batch that they are about; its extras are found by name, too.
        said: The predictions.
        reader: Who reads, for the message.
        schedule: The forward process.
        settings: Numbers of the method, at this step, by the names that it declares.
        views_at_once: How many items, one after the other, are views of one scene.
        scale: The guidance scale s of the step.

    Example:
        >>> predictions["cond"] - predictions["null"]
    """

    noisy: NoisyBatch
    said: Mapping[str, Float[Tensor, "B C H W"]]
    reader: str = "this step"
    schedule: NoiseSchedule | None = None
    settings: Settings = field(default_factory=Settings)
    views_at_once: int = 1
    scale: float = 1.0

    @property
    def x_t(self) -> Float[Tensor, "B C H W"]:
        """The noisy latents."""
        return self.noisy.x_t

    @property
    def t(self) -> Times:
        """Their times."""
        return self.noisy.t

    @property
    def noise(self) -> Float[Tensor, "B C H W"]:
        """The eps that was drawn."""
        return self.noisy.noise

    def x0(self, epsilon: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The clean latents that ``epsilon`` makes of x_t."""
        return converted(self.schedule, epsilon, self.x_t, self.t, "epsilon", "sample")

    def epsilon(self, x0: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The epsilon that makes ``x0`` of x_t."""
        return converted(self.schedule, x0, self.x_t, self.t, "sample", "epsilon")

    def __getitem__(self, name: str) -> Float[Tensor, "B C H W"]:
        for values in (self.said, self.noisy.extras):
            if name in values:
                return values[name]
        raise UserError(
            f"There is no prediction '{name}' for {self.reader}, which declares "
            f"{', '.join(self) or 'none'}; name it where it is registered (needs=...)."
        )

    def __contains__(self, name: object) -> bool:
        return name in self.said or name in self.noisy.extras

    def __iter__(self) -> Iterator[str]:
        return iter((*self.said, *self.noisy.extras))

    def __len__(self) -> int:
        return len(self.said) + len(self.noisy.extras)

    def limited(
        self, names: Iterable[str], reader: str, settings: Iterable[str] = ()
    ) -> "Predictions":
        """The predictions and settings that ``reader`` declared, and no others."""
        said = {name: self[name] for name in names if name not in self.noisy.extras}
        return replace(
            self, said=said, reader=reader, settings=self.settings.limited(settings, reader)
        )


def check_names(names: Iterable[str], reader: str, also: Iterable[str] = ()) -> None:
    """Raises UserError if one of ``names`` is no prediction and not one of ``also``."""
    known = [*PREDICTIONS, *also]
    for name in names:
        if name not in known:
            raise UserError(
                f"{reader} needs '{name}', which no step provides; choose from: {', '.join(known)}."
            )


def sides_of(names: Iterable[str]) -> tuple[str, ...]:
    """The critic's predictions among ``names``, in alphabetical order."""
    return tuple(sorted(name for name in names if PREDICTIONS.get(name).against is not None))


def beside(name: str, side: str) -> str:
    """What is to a critic's prediction ``side`` as ``name`` is to ``critic``: a prediction of the
    teacher at the same latents.

    Raises:
        UserError: Nobody registered one.

    Example:
        >>> beside("cond", "reference_critic")
        'reference_cond'
    """
    place, against = PREDICTIONS.get(side).at, PREDICTIONS.get(side).against
    if name == "cond":
        return against
    if place is None:
        return name
    for other in PREDICTIONS:
        found = PREDICTIONS.get(other)
        if (found.at, found.like, found.against) == (place, name, None):
            return other
    raise UserError(
        f"The critic's objective reads '{name}', of which there is no prediction at '{place}' for "
        f"'{side}': register_prediction(..., at='{place}', like='{name}')."
    )
