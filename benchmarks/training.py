"""A training whose steps are timed, for benchmarks that compare whole trainings."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).with_name("nerf.yaml")


class Enough(Exception):
    """Ends a training whose end nobody waits for."""


def step_ends(
    steps: int,
    *overrides: str,
    config: Path | str = CONFIG,
    end_of_step: Callable[[int, Any], None] = lambda step, system: None,
) -> list[float]:
    """Train ``config`` in this process; the clock (s) at the end of each step.

    ``end_of_step(step, system)`` is called before the clock is read, with steps counted from 1.
    Imports only what runs: a benchmark may point PYTHONPATH to another checkout.
    """
    from threestudio_asd.cli.main import PLUGINS
    from threestudio_asd.studio import launch, systems

    ends: list[float] = []
    on_batch_end = systems.BaseSystem.on_train_batch_end

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        on_batch_end(self, *args, **kwargs)
        end_of_step(len(ends) + 1, self)
        ends.append(time.perf_counter())

    systems.BaseSystem.on_train_batch_end = record
    try:
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--config", str(config), "--train", f"exp_root_dir={folder}"]
            prompt = "system.prompt_processor.prompt=a red mug"
            length = f"trainer.max_steps={steps}"
            launch.main([*arguments, prompt, length, *overrides], plugins=PLUGINS)
    except Enough:
        pass
    finally:
        systems.BaseSystem.on_train_batch_end = on_batch_end
    return ends
