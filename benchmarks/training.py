"""Trainings whose steps are watched, for benchmarks of whole trainings."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).with_name("nerf.yaml")


class Enough(Exception):
    """Raised in ``on_step``: ends a training that has nothing more to tell, without its test."""


def train(on_step: Callable[[int], None], *overrides: str, config: Path = CONFIG) -> None:
    """Train ``config`` in this process; ``on_step(n)`` is called at the end of the n-th step.

    Imports only what runs: a benchmark may point PYTHONPATH to another checkout.
    """
    from threestudio_asd.cli.main import PLUGINS

    try:
        from threestudio_asd.studio.run import launch
        from threestudio_asd.studio.systems import base as systems
    except ImportError:  # of an older checkout, where the host was one folder
        from threestudio_asd.studio import launch, systems

    done = 0
    on_batch_end = systems.BaseSystem.on_train_batch_end

    def told(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal done
        on_batch_end(self, *args, **kwargs)
        done += 1
        on_step(done)

    systems.BaseSystem.on_train_batch_end = told
    try:
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--config", str(config), "--train", f"exp_root_dir={folder}"]
            prompt = "system.prompt_processor.prompt=a red mug"
            launch.main([*arguments, prompt, *overrides], plugins=PLUGINS)
    except Enough:
        pass
    finally:
        systems.BaseSystem.on_train_batch_end = on_batch_end


def step_ends(steps: int, *overrides: str) -> list[float]:
    """Train ``CONFIG`` for ``steps`` steps; the clock (s) at the end of each."""
    ends: list[float] = []
    train(lambda _: ends.append(time.perf_counter()), f"trainer.max_steps={steps}", *overrides)
    return ends
