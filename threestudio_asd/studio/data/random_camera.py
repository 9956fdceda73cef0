"""``random-camera-datamodule``: random cameras for training, an orbit for evaluation.

Training batch ``k`` is a pure function of ``(seed, k)``: a resumed run that starts at step ``k``
sees the batches that an uninterrupted run would see, however far the loader reads ahead.
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from threestudio_asd.scene.cameras import camera_batch, orbit_positions
from threestudio_asd.scene.lights import LIGHT_STRATEGIES
from threestudio_asd.studio.config.structured import parse_structured
from threestudio_asd.studio.data.random_camera_config import (
    RandomCameraDataModuleConfig,
    Stage,
    check_config,
    resolution_stages,
)
from threestudio_asd.studio.registry import register


def batch_generator(seed: int, k: int) -> torch.Generator:
    """The random numbers of batch ``k``, unrelated to those of any other batch or seed."""
    # Torch's CPU generator keeps 32 bits of its seed, so (seed, k) must be mixed before.
    (mixed,) = np.random.SeedSequence((seed, k)).generate_state(1)
    return torch.Generator().manual_seed(int(mixed))


class RandomCameraIterableDataset(IterableDataset):
    """Endless training batches, counted from ``start_step``."""

    def __init__(self, cfg: Any, seed: int = 0, start_step: int = 0) -> None:
        super().__init__()
        check_config(cfg)
        self.cfg, self.seed, self.start_step = cfg, seed, start_step
        self.stages = resolution_stages(cfg)

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
        cfg, stage, rng = self.cfg, self.stage(k), batch_generator(self.seed, k)
        n = stage.batch_size
        elevation_range, azimuth_range = self.angle_ranges(k)
        elevation = _sample_elevation(n, elevation_range, rng)
        azimuth = _sample_azimuth(n, azimuth_range, cfg.batch_uniform_azimuth, rng)
        distances = _uniform(n, cfg.camera_distance_range, rng)
        positions = orbit_positions(elevation, azimuth, distances)
        positions = positions + cfg.camera_perturb * (2 * torch.rand(n, 3, generator=rng) - 1)
        targets = cfg.center_perturb * torch.randn(n, 3, generator=rng)
        up = torch.tensor([0.0, 0.0, 1.0]) + cfg.up_perturb * torch.randn(n, 3, generator=rng)
        fovy_deg = _uniform(n, cfg.fovy_range, rng)
        light_distances = _uniform(n, cfg.light_distance_range, rng)
        sample_light = LIGHT_STRATEGIES[cfg.light_sample_strategy]
        return camera_batch(
            positions=positions,
            targets=targets,
            up=up,
            fovy_deg=fovy_deg,
            elevation_deg=elevation,
            azimuth_deg=azimuth,
            distances=distances,
            light_positions=sample_light(
                positions, light_distances, cfg.light_position_perturb, rng
            ),
            height=stage.height,
            width=stage.width,
            normalize=cfg.rays_d_normalize,
        )


def _uniform(n: int, bounds: Sequence[float], rng: torch.Generator) -> Float[Tensor, "{n}"]:
    low, high = bounds
    return low + (high - low) * torch.rand(n, generator=rng)


def _sample_elevation(
    n: int, bounds: Sequence[float], rng: torch.Generator
) -> Float[Tensor, "{n}"]:
    """Degrees; for half of the batches uniform in angle, for the others uniform on the sphere."""
    if torch.rand((), generator=rng) < 0.5:
        return _uniform(n, bounds, rng)
    low, high = (float(np.sin(np.deg2rad(bound))) for bound in bounds)
    return torch.rad2deg(torch.asin(_uniform(n, (low, high), rng).clamp(-1, 1)))


def _sample_azimuth(
    n: int, bounds: Sequence[float], stratified: bool, rng: torch.Generator
) -> Float[Tensor, "{n}"]:
    """Degrees; ``stratified`` draws one azimuth from each n-th of the range."""
    if not stratified:
        return _uniform(n, bounds, rng)
    low, high = bounds
    return low + (high - low) * (torch.arange(n) + torch.rand(n, generator=rng)) / n


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
    """Set ``seed`` and, when resuming, ``start_step`` (batches already consumed) before ``fit``."""

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.cfg = parse_structured(RandomCameraDataModuleConfig, cfg)
        check_config(self.cfg)
        self.seed = 0
        self.start_step = 0

    def setup(self, stage: str | None = None) -> None:
        if stage in (None, "fit"):
            self.train_dataset = RandomCameraIterableDataset(self.cfg, self.seed, self.start_step)
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
