"""The table's cells: what each changes of ``configs/tiny/sida.yaml``."""

from collections.abc import Sequence
from dataclasses import dataclass

from threestudio_asd.errors import UserError

#: Real pictures of every cell, as many as the teacher can draw in minutes: the control then differs
#: from ``sida`` in nothing but whose pictures they are.
COUNT = 1024
_EVERY = ("captions=world", f"reals.count={COUNT}")
#: Name -> overrides.
CELLS: dict[str, tuple[str, ...]] = {
    "sida": ("method=sida",),
    "sid": ("method=sid",),
    "dmd2": ("method=dmd2",),
    "add": ("method=add",),
    "gan": ("method=gan",),
    "distillation": ("method=distillation",),
    "sid-alpha-0.5": ("method=sid", "settings.alpha=0.5"),
    "sid-alpha-1.2": ("method=sid", "settings.alpha=1.2"),
    "sida-alpha-0.5": ("method=sida", "settings.alpha=0.5"),
    "sida-alpha-1.2": ("method=sida", "settings.alpha=1.2"),
    "sida-each-item": ("method=sida", "settings.average_over=1"),
    # At scale 1 nothing enters that the networks of the score term do not know.
    "sida-own-samples": ("method=sida", "reals.type=teacher", "reals.scale=1"),
    "sida-8192-renders": ("method=sida", "reals.count=8192"),
}
#: What the students are measured beside: names of records.
REFERENCES = ("true-renders", "autoencoder", "teacher-1", "teacher-1.5", "teacher-4")


@dataclass(frozen=True)
class Cell:
    """A training.

    Args:
        name: Of ``CELLS``.
        more: ``key=value`` besides, of a whole run.
    """

    name: str
    seed: int
    iterations: int
    more: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Of its folder and its record."""
        return f"{self.name}-{self.iterations}-{self.seed}"

    @property
    def overrides(self) -> list[str]:
        run = f"steps={self.iterations}", f"seed={self.seed}"
        return [*_EVERY, *CELLS[self.name], *run, *self.more]


def chosen(
    only: Sequence[str] | None, seeds: Sequence[int], iterations: int, more: Sequence[str] = ()
) -> list[Cell]:
    """The cells of a command, seed by seed.

    Raises:
        UserError: There is no such cell.
    """
    names = list(CELLS) if only is None else list(only)
    if unknown := [name for name in names if name not in CELLS]:
        raise UserError(f"There is no cell '{unknown[0]}'; choose of: {', '.join(CELLS)}.")
    return [Cell(name, seed, iterations, tuple(more)) for seed in seeds for name in names]
