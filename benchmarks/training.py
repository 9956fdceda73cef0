"""A training whose steps are timed, for benchmarks that compare whole trainings."""

import tempfile
import time
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).with_name("nerf.yaml")


def step_ends(steps: int, *overrides: str) -> list[float]:
    """Train ``CONFIG`` in this process; the clock (s) at the end of each step.

    Imports only what runs: a benchmark may point PYTHONPATH to another checkout.
    """
    from threestudio_asd.cli.main import PLUGINS
    from threestudio_asd.studio import launch, systems

    ends: list[float] = []
    on_batch_end = systems.BaseSystem.on_train_batch_end

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        on_batch_end(self, *args, **kwargs)
        ends.append(time.perf_counter())

    systems.BaseSystem.on_train_batch_end = record
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config", str(CONFIG), "--train", f"exp_root_dir={folder}"]
        prompt = "system.prompt_processor.prompt=a red mug"
        length = f"trainer.max_steps={steps}"
        launch.main([*arguments, prompt, length, *overrides], plugins=PLUGINS)
    return ends
