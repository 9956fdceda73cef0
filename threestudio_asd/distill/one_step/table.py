"""The one-step methods: rows of one form.

    G:     score term(x, f_r, f_f) + weight * (the discriminator takes x for real)
    fake:  w(E) |f_f - x|^2        + weight * (the discriminator tells real from generated)

The fake network and the discriminator move first, then the generator; which of them moves when is a
column of the table, counted in steps. What a row does not say it has from ``OneStepSettings``.

Which settings recover which method: SiDA without its adversary is SiD; SiD-LSG with all scales at 1
is SiD; DMD2 without its adversary is DMD (of DMD2's kind, without the regression on the teacher's
samples); ADD with c = alpha w / (2 sigma) and without its adversary is SDS.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from threestudio_asd.distill.one_step.denoising import FAKE_WEIGHTS
from threestudio_asd.distill.one_step.scores import DISTANCE_WEIGHTS
from threestudio_asd.distill.one_step.settings import OneStepSettings, read
from threestudio_asd.distill.one_step.terms import SCORES, Score
from threestudio_asd.distill.settings import merged
from threestudio_asd.errors import UserError
from threestudio_asd.registry import Registry


@dataclass(frozen=True)
class Adversary:
    """A discriminator: heads on features of a network.

    Args:
        network: Whose features: "fake" trains them, too; "teacher" is frozen.
        blocks: Which: "down", the last down block's output, and "middle", the middle block's.
        head: What makes logits of them: "mean" over the channels, "convolutions" that are trained.
        loss: "bce" or "hinge".
        shares_noise: Whether the generator's logits come from the score term's pass, the
            discriminator's from the denoising pass, and real pictures have the same t and noise;
            otherwise each has draws of its own.
    """

    network: str
    blocks: tuple[str, ...]
    head: str
    loss: str
    shares_noise: bool


ADVERSARIES: Registry[Adversary] = Registry("adversary")
# SiDA: no parameter of its own.
ADVERSARIES.add("encoder", Adversary("fake", ("down",), "mean", "bce", shares_noise=True))
# DMD2.
ADVERSARIES.add("middle", Adversary("fake", ("middle",), "convolutions", "bce", shares_noise=False))
# ADD, with the teacher's own encoder for features as in LADD (Sauer et al. 2024, arXiv:2403.12015):
# the feature network must not be one that measures the results.
ADVERSARIES.add(
    "features",
    Adversary("teacher", ("down", "middle"), "convolutions", "hinge", shares_noise=False),
)


@dataclass(frozen=True)
class OneStepMethod:
    """One row of the table.

    Args:
        name: Its name, as in ``ONE_STEP_METHODS.get(name)``.
        score: Name of the score term, or None.
        adversary: Name of the adversarial term, or None.
        fake: Name of the weight of the fake network's denoising loss; None for no such network.
        paper: Where it comes from.
        settings: Defaults of this row for fields of ``OneStepSettings``.
        from_generator: Whether the generator begins as one that was trained before, while the fake
            network begins as the teacher.

    Raises:
        NotRegisteredError: A name that nobody registered.
        UserError: Neither a score term nor an adversary; a fake network that nothing reads, or a
            reader without one; a setting that there is not.
    """

    name: str
    score: str | None
    adversary: str | None
    fake: str | None
    paper: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    from_generator: bool = False

    def __post_init__(self) -> None:
        score, discriminator = self.score_term, self.discriminator
        if score is None and discriminator is None:
            raise UserError(f"Method '{self.name}' needs a score term, an adversary or both.")
        if self.fake is not None:
            FAKE_WEIGHTS.get(self.fake)
        reads = score is not None and score.reads_fake
        judged = discriminator is not None and discriminator.network == "fake"
        if (reads or judged) != (self.fake is not None):
            raise UserError(
                f"Method '{self.name}': its score term is {self.score}, its adversary "
                f"{self.adversary} and its fake weight {self.fake}. A fake network must be both "
                "read and trained, or neither."
            )
        if judged and discriminator.shares_noise and not reads:
            raise UserError(
                f"Method '{self.name}': the adversary '{self.adversary}' shares the noise of a "
                "score term that asks the fake network; this row has none."
            )
        self.with_settings({}, f"Method '{self.name}'")

    @property
    def score_term(self) -> Score | None:
        return None if self.score is None else SCORES.get(self.score)

    @property
    def discriminator(self) -> Adversary | None:
        return None if self.adversary is None else ADVERSARIES.get(self.adversary)

    @property
    def needs_reals(self) -> bool:
        """Whether it learns from real pictures, not from the teacher alone."""
        return self.adversary is not None

    def with_settings(self, given: Mapping[str, Any], where: str) -> OneStepSettings:
        """The row's settings with those ``given`` by ``where``.

        Raises UserError if one is no setting, or out of its range.
        """
        owner = f"method '{self.name}'"
        defaults = {f.name: f.default for f in fields(OneStepSettings)}
        values = merged(merged(defaults, self.settings, owner, owner), given, where, owner)
        for name, needed, what in (
            ("adversarial_per_error", self.score, "score term"),
            ("discriminator_per_level", self.fake, "fake network"),
        ):
            if values[name] and needed is None:
                raise UserError(f"{where}: {name} needs a {what}, which {owner} has not.")
        settings = read(values)
        DISTANCE_WEIGHTS.get(settings.distance)
        return settings


ONE_STEP_METHODS: Registry[OneStepMethod] = Registry("one-step method")


def register_one_step_method(method: OneStepMethod) -> OneStepMethod:
    """Add a row; raises ``AlreadyRegisteredError`` if its name is taken."""
    ONE_STEP_METHODS.add(method.name, method)
    return method


_SID = OneStepMethod(
    name="sid",
    score="sid",
    adversary=None,
    fake="epsilon",
    paper="Score identity Distillation, Zhou et al. 2024, arXiv:2404.04057",
)
_SIDA = replace(
    _SID,
    name="sida",
    adversary="encoder",
    paper="Adversarial SiD, Zhou et al. 2024, arXiv:2410.14919",
    settings={
        "adversarial_per_error": True,
        "logit_limit": 10.0,
        "generator_from": 25,
        "adversarial_from": 50,
        "clip_value": 1.0,
    },
)
_DMD2 = OneStepMethod(
    name="dmd2",
    score="dmd",
    adversary="middle",
    fake="epsilon",
    paper="Improved Distribution Matching Distillation, Yin et al. 2024, arXiv:2405.14867",
    settings={
        "adversarial_weight": 1e-3,
        "discriminator_weight": 1e-2,
        "fake_range": (0.0, 1.0),
        "fake_steps": 5,
        "adversarial_from": 50,
    },
)
# The student begins with pure noise, never with a noisy real picture.
_ADD = OneStepMethod(
    name="add",
    score="add",
    adversary="features",
    fake=None,
    paper="Adversarial Diffusion Distillation, Sauer et al. 2023, arXiv:2311.17042",
    settings={
        "score_weight": 2.5,
        "adversarial_weight": 1.0,
        "discriminator_weight": 1.0,
        "r1_weight": 1e-5,
        "adversarial_range": (0.0, 0.5),
    },
)
for _row in (
    _SID,
    # Long and short guidance: the fake network is trained at the scale at which it is read.
    replace(
        _SID,
        name="sid-lsg",
        paper="Long and Short Guidance in SiD, Zhou et al. 2024, arXiv:2406.01561",
        settings={"fake_train_scale": 1.5, "fake_scale": 1.5, "teacher_scale": 1.5},
    ),
    _SIDA,
    # The fake network first catches up with a generator that it does not know.
    replace(_SIDA, name="sid2a", from_generator=True),
    replace(
        _DMD2,
        name="dmd",
        adversary=None,
        paper="Distribution Matching Distillation, Yin et al. 2024, arXiv:2311.18828",
        settings={},
    ),
    _DMD2,
    _ADD,
    # ADD's two halves, its ablation.
    replace(_ADD, name="gan", score=None),
    replace(_ADD, name="distillation", adversary=None),
):
    register_one_step_method(_row)
