"""The grid of a comparison: methods x scales x prompts x seeds, from a YAML and flags."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from threestudio_asd.compare.rows import CONVENTIONS, STEPS, read_rows
from threestudio_asd.distill.critic import rescaled_scale
from threestudio_asd.errors import UserError
from threestudio_asd.studio.config.experiment import read_config, resolve_config
from threestudio_asd.studio.config.files import find_config
from threestudio_asd.studio.config.structured import config_to_primitive
from threestudio_asd.studio.run.launch import BUILTINS
from threestudio_asd.tiny import WEIGHTS
from threestudio_asd.tiny.judge import load_report
from threestudio_asd.tiny.scenes import WORLD_VERSION

# Raise it when a measure changes: figures of another version are not mixed.
MEASURES_VERSION = 1
# Of a config, what says where a run's files lie and not what it computes.
_PLACES = ("name", "description", "tag", "use_timestamp", "timestamp", "exp_root_dir", "exp_dir")
_PLACES += ("trial_name", "trial_dir", "n_gpus", "resume", "checkpoint")
# Changes last digits, as another type of processor does.
_PLACES += ("pieces",)


@dataclass(frozen=True)
class Cell:
    """One optimisation. ``scale`` is s in the diffusers convention, e_null + s (e_y - e_null)."""

    method: str
    scale: float
    prompt: str
    seed: int

    @property
    def name(self) -> str:
        words = f"{self.method}_s{self.scale:g}_{self.prompt}_seed{self.seed}"
        return re.sub(r"[^A-Za-z0-9.-]+", "_", words).lower()


@dataclass(frozen=True)
class Grid:
    cfg: Any
    rows: dict[str, Any]  # each a structured Row
    _content: dict = field(default_factory=dict, repr=False, compare=False)
    """(method, scale) -> what decides the figures besides prompt and seed: slow to find."""

    @property
    def cells(self) -> list[Cell]:
        """Seed by seed and prompt by prompt: a stopped grid has whole rows to show."""
        order = product(self.cfg.seeds, self.cfg.prompts, self.rows, self.scales)
        found = (self.cell(method, s, prompt, seed) for seed, prompt, method, s in order)
        return list(dict.fromkeys(found))

    @property
    def scales(self) -> list[float | None]:
        """Those of the grid's columns; None alone where every row is shown at its own."""
        return [float(scale) for scale in self.cfg.scales] or [None]

    @property
    def length(self) -> str:
        """How long a run is."""
        said = [] if self.cfg.steps is None else [f"{self.cfg.steps} steps"]
        if self.cfg.evaluations is not None:
            said.append(f"{self.cfg.evaluations} UNet evaluations of each picture")
        return ", or ".join(said)

    def steps(self, method: str) -> int:
        """Of each run of ``method``."""
        return int(self.rows[method].overrides.get(STEPS, self.cfg.steps))

    def cell(self, method: str, scale: float | None, prompt: str, seed: int) -> Cell:
        """The cell of ``method`` at ``scale``; a row with a scale of its own has a single one."""
        own = self.rows[method].scale
        return Cell(method, float(scale if own is None else own), prompt, seed)

    def start(self, cell: Cell) -> Cell | None:
        """The cell from whose result ``cell`` starts."""
        row = self.rows[cell.method].start_from
        return None if row is None else self.cell(row, cell.scale, cell.prompt, cell.seed)

    def starts_others(self, cell: Cell) -> bool:
        return any(row.start_from == cell.method for row in self.rows.values())

    @cached_property
    def teachers(self) -> str:
        """The models that the rows learn from; an embedded one's name tells its edition."""
        first = (self.scales[0], self.cfg.prompts[0], self.cfg.seeds[0])
        configs = (self.config(self.cell(method, *first)) for method in self.rows)
        named = {c.system.guidance.get("pretrained_model_name_or_path") for c in configs} - {None}
        names = sorted(Path(name).name if Path(name).is_dir() else name for name in named)
        return ", ".join(names) or "none"

    def run_scale(self, method: str, scale: float) -> float:
        """The scale of the run, diffusers convention: s, or s' for a rescaled row."""
        gamma = self.rows[method].rescale_gamma
        return scale if gamma is None else rescaled_scale(scale, gamma)

    def effective_scale(self, method: str, scale: float) -> float:
        """s': the scale of the VSD that the method equals at its critic's optimum.

        s itself for methods whose critic has no repelling term, or with a scale of their own.
        """
        if self.rows[method].scale is not None:
            return scale
        cell = Cell(method, scale, self.cfg.prompts[0], self.cfg.seeds[0])
        guidance = self.config(cell).system.guidance
        gamma = guidance.get("gamma")
        if gamma is None or guidance.get("method", "asd") != "asd":
            return self.run_scale(method, scale)
        return rescaled_scale(scale, gamma)

    def config(self, cell: Cell, weights: Path | None = None) -> Any:
        """The cell's experiment, resolved; UserError for a key or value that is wrong.

        Args:
            weights: A checkpoint to start from; its guidance is left out.
        """
        _register()
        row = self.rows[cell.method]
        scale = self.run_scale(cell.method, cell.scale)
        # The steps first: a row may still say otherwise.
        values = {STEPS: self.cfg.steps, **self.cfg.overrides, **row.overrides}
        values |= {"seed": cell.seed, "use_timestamp": False, "tag": "cell"}
        if row.scale_key is not None:
            values[row.scale_key] = scale
        values["system.prompt_processor.prompt"] = cell.prompt
        if weights is not None:
            values |= {"system.weights": str(weights)}
            values |= {"system.weights_ignore_modules": ["guidance"]}
        dotted = OmegaConf.create({})
        for key, value in values.items():
            OmegaConf.update(dotted, key, value)
        raw = read_config(find_config(row.base or self.cfg.base), **dotted)
        perp_neg = OmegaConf.select(raw, "system.prompt_processor.use_perp_neg")
        if row.scale_key is not None and not perp_neg:
            # With perp-neg, threestudio's SDS counts as everybody does.
            OmegaConf.update(raw, row.scale_key, CONVENTIONS[row.scale_convention](scale))
        if row.rescale_gamma is not None:
            weight = OmegaConf.select(raw, row.lambda_key)
            if not isinstance(weight, int | float):
                raise UserError(
                    f"compare: {cell.method} is rescaled and needs a number in {row.lambda_key}; "
                    f"got {weight!r}."
                )
            OmegaConf.update(raw, row.lambda_key, weight / (1.0 + row.rescale_gamma))
        return resolve_config(raw)

    def config_hash(self, cell: Cell) -> str:
        """A hash of everything that decides the cell's figures; the same on every machine."""
        found = self._content.get((cell.method, cell.scale))
        if found is None:
            content = config_to_primitive(self.config(cell))
            content = {k: v for k, v in content.items() if k not in (*_PLACES, "seed")}
            del content["system"]["prompt_processor"]["prompt"]
            text = json.dumps(content, sort_keys=True).replace(str(WEIGHTS), "weights")
            found = self._content.setdefault((cell.method, cell.scale), text)
        start = self.start(cell)
        parts = [found, cell.prompt, cell.seed, start and self.config_hash(start)]
        parts += [self.cfg.generator, MEASURES_VERSION, _judge_version(), WORLD_VERSION]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _register() -> None:
    """The names and resolvers that configs use; here, for they take seconds to import."""
    for module in (*BUILTINS, "threestudio_asd.guidance", "threestudio_asd.systems"):
        import_module(module)


@cache
def _judge_version() -> str:
    return load_report()["sha256"]


def load_grid(name: str, **flags: Any) -> Grid:
    """The grid of a YAML (a path, or ``compare/2d``), with ``flags`` (not None) in its place.

    ``methods`` among the flags chooses rows by name.

    Raises:
        UserError: An unknown key, method, generator or convention, or a prompt that is not of the
            embedded world.
    """
    _register()
    chosen = flags.pop("methods", None)
    loaded = OmegaConf.load(find_config(name))
    given = {key: value for key, value in flags.items() if value is not None}
    cfg, rows = read_rows(OmegaConf.merge(loaded, given))
    for wanted in chosen or ():
        if wanted not in rows:
            raise UserError(f'compare: no method "{wanted}"; choose of: {", ".join(rows)}.')
    if chosen is not None:
        chosen = {*chosen, *(rows[name].start_from for name in chosen)}
        rows = {name: row for name, row in rows.items() if name in chosen}
    return Grid(cfg, rows)
