"""threestudio and the bundled host behind one set of names, for the facts to be read from either.

A process sees one of the two.
"""

import contextlib
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

Embed = Callable[[str], Tensor]


@dataclass(frozen=True)
class Host:
    """What the facts need of a host."""

    registry: Mapping[str, type]
    register: Callable
    find: Callable
    C: Callable
    parse_structured: Callable
    parse_optimizer: Callable
    parse_scheduler: Callable
    get_activation: Callable
    configs: Mapping[str, type]
    """Config dataclasses that have no registered name."""
    load_config: Callable
    find_last_path: Callable
    saver: type
    base_module: type
    base_system: type
    implicit_geometry: type
    prompt_processor: Callable[[dict, Embed], Any]
    """A processor with the given config whose prompts are embedded by the given function."""
    launch_options: Callable[[], list[str]]
    nerf_system: str
    """Registered name of a system that trains a NeRF with any guidance."""
    train: Callable[[Path], None]
    """Train what a config file describes."""


# Registered on both hosts by this project.
PLUGIN = {
    *("asd-2d-system", "asd-system", "nerf-system-asd", "random-grey-background"),
    *("stable-diffusion-asd-guidance", "truth-pixels-guidance", "truth-score-guidance"),
}
# Names of threestudio-mvdream and threestudio-sds-bridge, which are no part of threestudio itself.
EXTENSION = {
    *("mvdream-multiview-diffusion-guidance", "mvdream-neural-environment-map-background"),
    *("mvdream-random-multiview-camera-datamodule", "mvdream-system", "sds-bridge-system"),
    *("stable-diffusion-sds-bridge-guidance", "stable-diffusion-sds-bridge-prompt-processor"),
}


def bundled() -> Host:
    """The bundled host, in this process."""
    from threestudio_asd.cli import main as cli
    from threestudio_asd.studio import base, registry
    from threestudio_asd.studio.checkpoint import store as checkpoint
    from threestudio_asd.studio.config import experiment
    from threestudio_asd.studio.config import structured as config
    from threestudio_asd.studio.config.schedule import C
    from threestudio_asd.studio.models.activations import get_activation
    from threestudio_asd.studio.models.geometry.base import BaseImplicitGeometry
    from threestudio_asd.studio.models.prompt_processor import PromptProcessor
    from threestudio_asd.studio.run import launch
    from threestudio_asd.studio.systems import base as systems
    from threestudio_asd.studio.systems import lift3d, saving
    from threestudio_asd.studio.systems.optimizers import parse_optimizer, parse_scheduler

    def prompt_processor(cfg: dict, embed: Embed) -> PromptProcessor:
        class Processor(PromptProcessor):
            def embed_prompts(self, prompts: list[str]) -> dict[str, Any]:
                return {prompt: embed(prompt) for prompt in prompts}

        return Processor(cfg)

    def launch_options() -> list[str]:
        return [*_options(launch.parser().format_help()), "--gradio"]  # hidden, because it raises

    def train(path: Path) -> None:
        assert cli.main(["launch", "--config", str(path), "--train"]) == 0

    for module in (*launch.BUILTINS, *cli.PLUGINS):
        importlib.import_module(module)
    others = PLUGIN | EXTENSION
    entries = {name: registry.find(name) for name in registry.names() if name not in others}
    ours = {n: cls for n, cls in entries.items() if cls.__module__.startswith("threestudio_asd.")}
    return Host(
        registry=ours,
        register=registry.register,
        find=registry.find,
        C=C,
        parse_structured=config.parse_structured,
        parse_optimizer=parse_optimizer,
        parse_scheduler=parse_scheduler,
        get_activation=get_activation,
        configs={
            "experiment": experiment.ExperimentConfig,
            "base-system": systems.BaseSystem.Config,
            "base-lift3d-system": lift3d.BaseLift3DSystem.Config,
        },
        load_config=experiment.load_config,
        find_last_path=checkpoint.find_last_path,
        saver=saving.SaverMixin,
        base_module=base.BaseModule,
        base_system=systems.BaseSystem,
        implicit_geometry=BaseImplicitGeometry,
        prompt_processor=prompt_processor,
        launch_options=launch_options,
        nerf_system="asd-system",
        train=train,
    )


def upstream(checkout: Path) -> Host:
    """The threestudio of a checkout, on this machine's CPU; run in an otherwise unused folder."""
    from threestudio_asd import portable

    portable.install("cpu")
    sys.path.insert(0, str(checkout))
    import threestudio

    portable.adapt_to_cpu()
    from threestudio.models.geometry.base import BaseImplicitGeometry
    from threestudio.models.prompt_processors.base import PromptProcessor
    from threestudio.systems import base
    from threestudio.systems.utils import parse_optimizer, parse_scheduler
    from threestudio.utils import config, misc, ops, saving
    from threestudio.utils.base import BaseModule

    def prompt_processor(cfg: dict, embed: Embed) -> PromptProcessor:
        class Processor(PromptProcessor):
            def prepare_text_embeddings(self) -> None:
                pass

            def load_from_cache(self, prompt: str) -> Tensor:
                return embed(prompt)

        return Processor(OmegaConf.create(cfg))

    def launch_options() -> list[str]:
        command = [sys.executable, str(checkout / "launch.py"), "--help"]
        return _options(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def train(path: Path) -> None:
        command = [sys.executable, "-m", "threestudio_asd.cli.main", "upstream", str(checkout)]
        subprocess.run([*command, "--config", str(path), "--train"], check=True)

    return Host(
        registry=dict(threestudio.__modules__),
        register=threestudio.register,
        find=threestudio.find,
        C=misc.C,
        parse_structured=config.parse_structured,
        parse_optimizer=parse_optimizer,
        parse_scheduler=parse_scheduler,
        get_activation=ops.get_activation,
        configs={
            "experiment": config.ExperimentConfig,
            "base-system": base.BaseSystem.Config,
            "base-lift3d-system": base.BaseLift3DSystem.Config,
        },
        load_config=config.load_config,
        find_last_path=misc.find_last_path,
        saver=saving.SaverMixin,
        base_module=BaseModule,
        base_system=base.BaseSystem,
        implicit_geometry=BaseImplicitGeometry,
        prompt_processor=prompt_processor,
        launch_options=launch_options,
        nerf_system="dreamfusion-system",
        train=train,
    )


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[None]:
    """What happens inside, happens in ``folder``."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _options(help_text: str) -> list[str]:
    return sorted(set(re.findall(r"--[a-z]+", help_text)) - {"--help"})
