"""Keys of ``random-camera-datamodule``, with their defaults and checks."""

from dataclasses import dataclass, field
from typing import Any

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.scene.lights import LIGHT_STRATEGIES


@dataclass
class RandomCameraDataModuleConfig:
    """threestudio's keys and defaults. Angles in degrees, lengths in scene units.

    The functions below take it as ``parse_structured`` returns it.
    """

    # An int, or a list with one entry per resolution stage.
    height: Any = 64
    width: Any = 64
    batch_size: Any = 1
    resolution_milestones: list[int] = field(default_factory=list)
    eval_height: int = 512
    eval_width: int = 512
    eval_batch_size: int = 1
    n_val_views: int = 1
    n_test_views: int = 120
    elevation_range: tuple[float, float] = (-10, 90)
    azimuth_range: tuple[float, float] = (-180, 180)
    camera_distance_range: tuple[float, float] = (1, 1.5)
    fovy_range: tuple[float, float] = (40, 70)
    camera_perturb: float = 0.1
    center_perturb: float = 0.2
    up_perturb: float = 0.02
    light_position_perturb: float = 1.0
    light_distance_range: tuple[float, float] = (0.8, 1.5)
    eval_elevation_deg: float = 15.0
    eval_camera_distance: float = 1.5
    eval_fovy_deg: float = 70.0
    light_sample_strategy: str = "dreamfusion"
    batch_uniform_azimuth: bool = True
    progressive_until: int = 0
    rays_d_normalize: bool = True


@dataclass(frozen=True)
class Stage:
    """Image and batch size from global step ``start`` on."""

    start: int
    height: int
    width: int
    batch_size: int


def resolution_stages(cfg: Any) -> list[Stage]:
    """The stages that ``height``, ``width``, ``batch_size`` and ``resolution_milestones`` name."""
    sizes = {key: staged(cfg, key) for key in ("height", "width", "batch_size")}
    milestones = list(cfg.resolution_milestones)
    counts = {key: len(values) for key, values in sizes.items()}
    if milestones and set(counts.values()) == {1}:
        log.warn("data.resolution_milestones has no effect: height and width do not change.")
        milestones = []
    if set(counts.values()) != {len(milestones) + 1} or milestones != sorted(milestones):
        raise UserError(
            f"data.resolution_milestones is {milestones}, with {counts} entries; height, width "
            "and batch_size each need one entry more than there are (ascending) milestones."
        )
    return [Stage(*row) for row in zip([0, *milestones], *sizes.values(), strict=True)]


def staged(cfg: Any, key: str) -> list[int]:
    """The values of ``height``, ``width`` or ``batch_size``, one for each stage or one for all."""
    value = getattr(cfg, key)
    values = [value] if isinstance(value, int) else list(value)
    if not values or not all(isinstance(v, int) and v > 0 for v in values):
        raise UserError(
            f"data.{key} is {value}; give a positive int, or a list of them with one entry per "
            "resolution stage."
        )
    return values


def check_config(cfg: Any) -> None:
    """Raise a ``UserError`` for a range or a name that no camera can be drawn from."""
    limits = {
        "elevation_range": (-90, 90),
        "azimuth_range": (-float("inf"), float("inf")),
        "camera_distance_range": (0, float("inf")),
        "fovy_range": (0, 180),
        "light_distance_range": (0, float("inf")),
    }
    for key, (lowest, highest) in limits.items():
        low, high = getattr(cfg, key)
        if not lowest <= low <= high <= highest:
            raise UserError(
                f"data.{key} is [{low}, {high}]; the first value must not exceed the second, "
                f"and both must lie between {lowest} and {highest}."
            )
    if cfg.light_sample_strategy not in LIGHT_STRATEGIES:
        raise UserError(
            f"data.light_sample_strategy is '{cfg.light_sample_strategy}'; "
            f"choose one of {sorted(LIGHT_STRATEGIES)}."
        )
