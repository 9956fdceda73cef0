"""``random-camera-datamodule``: random cameras for training, an orbit for evaluation.

Training batch ``k`` is a pure function of ``(seed, k)``: a resumed run that starts at step ``k``
sees the batches that an uninterrupted run would see, however far the loader reads ahead.
"""

import bisect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from threestudio_asd.scene.cameras import Draws, camera_batch, orbit_positions
from threestudio_asd.scene.lights import LIGHT_STRATEGIES
from threestudio_asd.studio.config.structured import parse_structured
from threestudio_asd.studio.data.random_camera_config import (
    RandomCameraDataModuleConfig,
    Stage,
    check_config,
    resolution_stages,
)
from threestudio_asd.studio.registry import register

Bounds = Sequence[float | int]
#: Arguments of ``camera_batch``.
Cameras = Mapping[str, Tensor]
#: ``(cfg, rng, count, elevation_range, azimuth_range) -> Cameras``.
Draw = Callable[[Any, torch.Generator, int, Bounds, Bounds], Cameras]


def batch_generator(seed: int, k: int) -> torch.Generator:
    """The random numbers of batch ``k``, unrelated to those of any other batch or seed."""
    # Torch's CPU generator keeps 32 bits of its seed, so (seed, k) must be mixed before.
    (mixed,) = np.random.SeedSequence((seed, k)).generate_state(1)
    return torch.Generator().manual_seed(int(mixed))


def single_views(
    cfg: Any,
    rng: torch.Generator,
    count: int,
    elevation_range: Bounds,
    azimuth_range: Bounds,
) -> Cameras:
    """``count`` cameras that have nothing to do with each other; ranges in degrees."""
    draws = Draws(rng, count)
    elevation = sample_elevation(draws, elevation_range)
    azimuth = _sample_azimuth(draws, azimuth_range, cfg.batch_uniform_azimuth)
    cameras = placed(cfg, draws, elevation, azimuth, draws.uniform(cfg.camera_distance_range))
    fovy_deg = draws.uniform(cfg.fovy_range)
    return {**cameras, "fovy_deg": fovy_deg, "light_positions": lit(cfg, draws, cameras)}


def placed(
    cfg: Any,
    draws: Draws,
    elevation_deg: Float[Tensor, "B"],
    azimuth_deg: Float[Tensor, "B"],
    distances: Float[Tensor, "B"],
) -> Cameras:
    """Cameras on their orbits, moved by the perturbations of ``cfg``."""
    still = orbit_positions(elevation_deg, azimuth_deg, distances)
    return {
        "elevation_deg": elevation_deg,
        "azimuth_deg": azimuth_deg,
        "distances": distances,
        "positions": still + cfg.camera_perturb * (2 * draws.rand(3) - 1),
        "targets": cfg.center_perturb * draws.randn(3),
        "up": torch.tensor([0.0, 0.0, 1.0]) + cfg.up_perturb * draws.randn(3),
    }


def lit(cfg: Any, draws: Draws, cameras: Cameras) -> Float[Tensor, "B 3"]:
    """The light of each camera."""
    distances = draws.uniform(cfg.light_distance_range)
    light = LIGHT_STRATEGIES[cfg.light_sample_strategy]
    return light(cameras["positions"], distances, cfg.light_position_perturb, draws)


def sample_elevation(draws: Draws, bounds: Bounds) -> Float[Tensor, "B"]:
    """Degrees; for half of the batches uniform in angle, for the others uniform on the sphere."""
    if torch.rand((), generator=draws.rng) < 0.5:
        return draws.uniform(bounds)
    sines = [float(np.sin(np.deg2rad(bound))) for bound in bounds]
    return torch.rad2deg(torch.asin(draws.uniform(sines).clamp(-1, 1)))


def _sample_azimuth(draws: Draws, bounds: Bounds, stratified: bool) -> Float[Tensor, "B"]:
    """Degrees; ``stratified`` draws one azimuth from each n-th of the range."""
    if not stratified:
        return draws.uniform(bounds)
    low, high = bounds
    return low + (high - low) * (torch.arange(draws.count) + draws.rand()) / draws.count


class RandomCameraIterableDataset(IterableDataset):
    """Endless training batches of the cameras that ``draw`` makes, counted from ``start_step``."""

    def __init__(
        self, cfg: Any, seed: int = 0, start_step: int = 0, draw: Draw = single_views
    ) -> None:
        super().__init__()
        check_config(cfg)
        self.stages = resolution_stages(cfg)
        if OmegaConf.is_config(cfg):  # whose keys take long to read, dozens in every step
            cfg = SimpleNamespace(**OmegaConf.to_container(cfg, resolve=True))
        self.cfg, self.seed, self.start_step, self.draw = cfg, seed, start_step, draw

    def __iter__(self) -> Iterator[dict]:
        return map(self.batch, itertools.count(self.start_step))

    def stage(self, k: int) -> Stage:
        return self.stages[bisect.bisect_right([s.start for s in self.stages], k) - 1]

    def angle_ranges(self, k: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Elevation and azimuth ranges, which widen from the evaluation view until step
        ``progressive_until``."""
        until = self.cfg.progressive_until
        r = min(1.0, k / (until + 1)) if until > 0 else 1.0
        front = (1 - r) * self.cfg.eval_elevation_deg
        elevation = tuple(front + r * bound for bound in self.cfg.elevation_range)
        return elevation, tuple(r * bound for bound in self.cfg.azimuth_range)

    def batch(self, k: int) -> dict:
        """The cameras of global step ``k``; the same for the same ``seed`` and ``k``."""
        stage, rng = self.stage(k), batch_generator(self.seed, k)
        return camera_batch(
            **self.draw(self.cfg, rng, stage.batch_size, *self.angle_ranges(k)),
            height=stage.height,
            width=stage.width,
            normalize=self.cfg.rays_d_normalize,
        )


class RandomCameraDataset(Dataset):
    """Evaluation views on a circle at ``eval_elevation_deg``, from azimuth 0 to 360 degrees.

    Validation leaves out 360 (the first view again); the test video includes it, as upstream's.
    The light is at the camera.
    """

    def __init__(self, cfg: Any, split: str) -> None:
        self.cfg, self.split = cfg, split
        if split == "val":
            self.azimuth_deg = torch.linspace(0, 360, cfg.n_val_views + 1)[:-1]
        else:
            self.azimuth_deg = torch.linspace(0, 360, cfg.n_test_views)

    def __len__(self) -> int:
        return len(self.azimuth_deg)

    def __getitem__(self, index: int) -> dict:
        cfg, azimuth = self.cfg, self.azimuth_deg[index][None]
        elevation = torch.full_like(azimuth, cfg.eval_elevation_deg)
        distances = torch.full_like(azimuth, cfg.eval_camera_distance)
        positions = orbit_positions(elevation, azimuth, distances)
        view = camera_batch(
            positions=positions,
            targets=torch.zeros(1, 3),
            up=torch.tensor([[0.0, 0.0, 1.0]]),
            fovy_deg=torch.full_like(azimuth, cfg.eval_fovy_deg),
            elevation_deg=elevation,
            azimuth_deg=azimuth,
            distances=distances,
            light_positions=positions,
            height=cfg.eval_height,
            width=cfg.eval_width,
            normalize=cfg.rays_d_normalize,
        )
        items = {k: v[0] if isinstance(v, Tensor) else v for k, v in view.items()}
        return {"index": index, **items}

    def collate(self, views: list[dict]) -> dict:
        size = {"height": self.cfg.eval_height, "width": self.cfg.eval_width}
        return {**default_collate(views), **size}


@register("random-camera-datamodule")
class RandomCameraDataModule(pl.LightningDataModule):
    """Set ``seed`` and, when resuming, ``start_step`` (batches already consumed) before ``fit``.

    A module of other cameras states its own three attributes.
    """

    keys: type = RandomCameraDataModuleConfig
    check: Callable[[Any], None] = staticmethod(check_config)
    draw: Draw = staticmethod(single_views)

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.cfg = parse_structured(self.keys, cfg)
        self.check(self.cfg)
        self.seed = 0
        self.start_step = 0

    def setup(self, stage: str | None = None) -> None:
        if stage in (None, "fit"):
            batches = (self.cfg, self.seed, self.start_step, self.draw)
            self.train_dataset = RandomCameraIterableDataset(*batches)
        if stage in (None, "fit", "validate"):
            self.val_dataset = RandomCameraDataset(self.cfg, "val")
        if stage in (None, "test", "predict"):
            self.test_dataset = RandomCameraDataset(self.cfg, "test")

    def train_dataloader(self) -> DataLoader:
        # No worker processes: two would each deliver every batch.
        return DataLoader(self.train_dataset, num_workers=0, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return self._eval_loader(self.val_dataset)

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader(self.test_dataset)

    def predict_dataloader(self) -> DataLoader:
        return self._eval_loader(self.test_dataset)

    def _eval_loader(self, dataset: RandomCameraDataset) -> DataLoader:
        # Upstream evaluates one view at a time, whatever eval_batch_size says; so do we.
        return DataLoader(dataset, num_workers=0, batch_size=1, collate_fn=dataset.collate)
