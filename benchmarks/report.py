"""What every benchmark's report says of its machine, and where it lies."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from threestudio_asd.compare.run.machine import processor

RESULTS = Path(__file__).parent / "results"


def hardware(device: torch.device | str) -> str:
    """The device's name."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def describe(device: torch.device) -> dict[str, Any]:
    """The machine, and by which clock its times are taken."""
    return {
        "hardware": hardware(device),
        "cores": os.cpu_count(),
        "load_average_before": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "clock": "CPU time" if alone(device) else "wall time",
        "torch": torch.__version__,
    }


def alone(device: torch.device) -> bool:
    """Whether one CPU thread does all the work: its CPU time then tells what it cost, to which
    other programs on the machine add little."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def write(name: str, report: dict[str, Any]) -> Path:
    """The report as benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    return path
