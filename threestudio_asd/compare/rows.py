"""The keys of a comparison's YAML: its rows, and how many steps each of them takes."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from threestudio_asd.compare.measure.generators import GENERATORS
from threestudio_asd.compare.measure.measures import MEASURES
from threestudio_asd.distill.guidance import threestudio_sds_scale
from threestudio_asd.errors import UserError
from threestudio_asd.studio.config.files import find_config
from threestudio_asd.studio.config.structured import parse_structured
from threestudio_asd.tiny.evaluation import parse_prompt

#: How a guidance counts its scale -> its value for our s.
CONVENTIONS = {"diffusers": lambda scale: scale, "threestudio-sds": threestudio_sds_scale}
STEPS = "trainer.max_steps"
LEAST_STEPS = 2  # drift needs a middle


@dataclass
class Row:
    """A method: any registered guidance with overrides."""

    overrides: dict = field(default_factory=dict)
    """Dotted keys of the base config -> values."""
    base: str | None = None
    """A base of its own, for a guidance whose keys are not those of the grid's base."""
    scale_key: str | None = "system.guidance.guidance_scale"
    """Null for a guidance without a scale, which needs a ``scale`` to be shown at."""
    scale_convention: str = "diffusers"
    """How ``scale_key`` counts: ``threestudio-sds`` is e_y + s (e_y - e_null), one less; see
    ``distill.guidance.threestudio_sds_scale``."""
    rescale_gamma: float | None = None
    """Run at s' = 1 + (s - 1)(1 + gamma) with ``lambda_key`` multiplied by 1/(1 + gamma): what
    ASD at gamma equals at its critic's optimum, if the row is VSD."""
    lambda_key: str = "system.loss.lambda_asd"
    scale: float | None = None
    """Run at this one scale, a level line beside the others, instead of at each of the grid's."""
    start_from: str | None = None
    """A row with a ``scale`` from whose results (same prompt and seed) this one starts."""
    evaluations: float | None = None
    """UNet evaluations per step and picture, for a grid with a budget of them."""


@dataclass
class GridConfig:
    """The keys of a comparison's YAML."""

    title: str = "Comparison"
    base: str = "tiny/asd-2d"
    generator: str = "2d"
    steps: int | None = 300
    """Of every run; null where ``evaluations`` alone says how long one is. ``${steps}`` in an
    override is the number that the row takes."""
    evaluations: int | None = None
    """A budget of UNet evaluations for each picture: rows that name theirs run with as many steps
    as come to it, where there are ``steps``, too, for a second time."""
    scales: list[float] = field(default_factory=lambda: [1.0, 3.0, 7.5, 15.0, 30.0, 100.0])
    """May be empty where every row has a scale of its own."""
    prompts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    overrides: dict = field(default_factory=dict)
    """Overrides of the base config for every method."""
    methods: dict = field(default_factory=dict)
    """Name -> a :class:`Row`."""
    front: list[str] = field(default_factory=list)
    """Measures that the page draws over what a run costs, with the front of those rows that no
    other is better than and as cheap as."""


def read_rows(loaded: DictConfig) -> tuple[Any, dict[str, Any]]:
    """A grid's keys, and its rows by name; one that runs a second time is a row of its own.

    Raises:
        UserError: An unknown key, a value that makes no sense, or no number of steps.
    """

    @cache
    def with_steps(count: int) -> Any:
        return parse_structured(GridConfig, OmegaConf.merge(loaded, {"steps": count}))

    steps = loaded.get("steps", GridConfig.steps)
    cfg = with_steps(LEAST_STEPS if steps is None else steps)
    rows = {name: parse_structured(Row, row) for name, row in cfg.methods.items()}
    _check(cfg, rows)
    found = {}
    for name, row in rows.items():
        for title, count in _lengths(name, row, steps, cfg.evaluations).items():
            found[title] = row if count == steps else _row_of(with_steps(count), name, count)
    cfg.steps = steps
    return cfg, found


def _lengths(name: str, row: Any, steps: int | None, budget: int | None) -> dict[str, int]:
    """Name of each run of a row -> its number of steps."""
    found = {} if steps is None else {name: steps}
    if budget is not None and row.evaluations is not None:
        count = max(LEAST_STEPS, round(budget / row.evaluations))
        title = name if steps is None else f"{name}, {budget} evaluations"
        found |= {title: count} if count != steps else {}
    if not found:
        raise UserError(
            f"compare: how many steps does {name} take? Give the grid's steps, or its evaluations "
            "and the row's."
        )
    return found


def _row_of(cfg: Any, name: str, steps: int) -> Any:
    """The row of a grid that was read with other ``steps``; its overrides with all of the grid's,
    whose schedules may count steps."""
    row = parse_structured(Row, cfg.methods[name])
    row.overrides = OmegaConf.merge({STEPS: steps}, cfg.overrides, row.overrides)
    return row


def _check(cfg: Any, rows: dict[str, Any]) -> None:
    if cfg.generator not in GENERATORS:
        raise UserError(f"compare: generator {cfg.generator}: use {' or '.join(GENERATORS)}.")
    own_scales = bool(rows) and all(row.scale is not None for row in rows.values())
    needed = ["scales"] * (not own_scales) + ["prompts", "seeds"]
    for key, values in (("methods", rows), *((k, cfg[k]) for k in needed)):
        if not values:
            raise UserError(f"compare: {key} is empty; name at least one.")
    if cfg.steps < LEAST_STEPS:
        raise UserError(f"compare: steps={cfg.steps}; at least 2 (drift needs a middle).")
    if cfg.evaluations is not None and cfg.evaluations < 1:
        raise UserError(f"compare: evaluations={cfg.evaluations}; at least 1.")
    if unknown := [name for name in cfg.front if name not in MEASURES]:
        raise UserError(
            f"compare: front: no measure {', '.join(unknown)}; choose of: {', '.join(MEASURES)}."
        )
    for prompt in cfg.prompts:
        parse_prompt(prompt)
    for name, row in rows.items():
        _check_row(name, row, cfg, rows)


def _check_row(name: str, row: Any, cfg: Any, rows: dict[str, Any]) -> None:
    if row.scale_convention not in CONVENTIONS:
        raise UserError(
            f"compare: {name}: scale_convention {row.scale_convention}; "
            f"use {' or '.join(CONVENTIONS)}."
        )
    if row.scale_key is None and row.scale is None:
        raise UserError(f"compare: {name}: scale_key is null; give a scale to show it at.")
    find_config(row.base or cfg.base)
    if row.rescale_gamma is not None and not -1.0 < row.rescale_gamma <= 0.0:
        raise UserError(f"compare: {name}: rescale_gamma must lie in (-1, 0].")
    if row.evaluations is not None and not row.evaluations > 0.0:
        raise UserError(f"compare: {name}: evaluations={row.evaluations:g}; more than 0.")
    if row.start_from is not None:
        start = rows.get(row.start_from)
        if start is None or start.scale is None or start.start_from is not None:
            raise UserError(
                f"compare: {name}: start_from must name a method with a scale of its own that "
                f"starts from scratch; got {row.start_from}."
            )
