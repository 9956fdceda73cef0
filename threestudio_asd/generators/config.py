"""The config of a one-step training: YAML and ``key=value``, as other commands read them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from threestudio_asd.errors import UserError
from threestudio_asd.generators.reals import RealsConfig
from threestudio_asd.studio.config.experiment import read_config, resolve_config
from threestudio_asd.studio.config.files import find_config
from threestudio_asd.studio.config.structured import register_resolver
from threestudio_asd.tiny import model_folder


@dataclass
class OneStepConfig:
    """The keys of a training."""

    teacher: str = "${asd_model:tiny-shapes}"
    """A folder in Stable Diffusion's format, or a hub id."""
    method: str = "sida"
    """A row of ``distill.one_step.ONE_STEP_METHODS``."""
    settings: dict = field(default_factory=dict)
    """Fields of ``distill.one_step.OneStepSettings`` in place of the row's."""
    steps: int = 400
    """Of the generator's; a picture is seen ``steps`` times ``settings.batch`` over."""
    seed: int = 0
    out: str = "outputs/one-step"
    start_from: str | None = None
    """A generator's folder, for a method that begins with one (``sid2a``)."""
    reals: RealsConfig = field(default_factory=RealsConfig)
    captions: str | None = None
    """A text file with a caption on each line, or ``world``; by default those of ``reals``."""
    fake_rank: int = 0
    """0: the fake network is a copy of the teacher's. Above: a LoRA of that rank on the teacher's
    own, which is in memory once."""
    precision: str = "fp32"
    """On CUDA, of the teacher's weights and of all passes: fp32 or bf16. What is trained has
    weights in fp32."""
    save_every: int = 100
    """Steps between checkpoints, from which the same command goes on."""
    pieces: int = 2
    """On a CPU, into how many pieces a step's batch is split."""

    def __post_init__(self) -> None:
        for key in ("steps", "save_every", "pieces"):
            if isinstance(getattr(self, key), int) and getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)}: at least 1.")


def load(name: str, arguments: Iterable[str] = ()) -> Any:
    """The config ``name`` (a path, or ``tiny/sida``) with the ``key=value`` of ``arguments``.

    Raises:
        UserError: An unknown key, a value of the wrong type, or one that is left open.
    """
    register_resolver("asd_model", model_folder)
    raw = read_config(find_config(name), cli_args=arguments, fields=OneStepConfig)
    return resolve_config(raw, OneStepConfig)
