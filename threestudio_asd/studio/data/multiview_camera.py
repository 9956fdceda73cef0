"""``mvdream-random-multiview-camera-datamodule``: several views of each scene, for models that see
them together (MVDream, arXiv:2308.16512, section 4; names, keys and formulas of
threestudio-mvdream).

A batch holds the views of one scene after the other. They look from azimuths at equal distances and
share everything else: elevation, field of view, distance, perturbations, and what is random about
their lights. As in ``random_camera``, batch ``k`` is a pure function of ``(seed, k)``.
"""

from dataclasses import dataclass
from typing import Any

import torch

from threestudio_asd.errors import UserError
from threestudio_asd.scene.cameras import Draws
from threestudio_asd.studio.data.random_camera import (
    Bounds,
    Cameras,
    RandomCameraDataModule,
    lit,
    placed,
    sample_elevation,
)
from threestudio_asd.studio.data.random_camera_config import (
    RandomCameraDataModuleConfig,
    check_config,
    staged,
)
from threestudio_asd.studio.registry import register


@dataclass
class RandomMultiviewCameraDataModuleConfig(RandomCameraDataModuleConfig):
    """``batch_uniform_azimuth`` says nothing here: the azimuths of a scene are uniform in any case,
    those of different scenes independent."""

    # How many views, one after the other in a batch, are of one scene.
    n_view: int = 1
    # camera_distance_range counts in distances at which the frame's half height is 1.
    relative_radius: bool = True
    # Factors of the field of view at the distance that the drawn one gave.
    zoom_range: tuple[float, float] = (1.0, 1.0)


def check_scenes(cfg: Any) -> None:
    """Raise a ``UserError`` for a range that no camera can be drawn from, or a batch that holds a
    part of a scene."""
    check_config(cfg)
    if cfg.n_view < 1:
        raise UserError(f"data.n_view is {cfg.n_view}; a scene has at least one view.")
    if parts := [size for size in staged(cfg, "batch_size") if size % cfg.n_view]:
        raise UserError(
            f"data.batch_size is {cfg.batch_size}, and {parts[0]} is no multiple of "
            f"data.n_view={cfg.n_view}: a batch holds whole scenes, so many views of each."
        )
    (low, high), (narrow, wide) = cfg.zoom_range, cfg.fovy_range
    if not 0 < low <= high or high * wide >= 180:
        raise UserError(
            f"data.zoom_range is [{low}, {high}]; give positive factors of data.fovy_range "
            f"[{narrow}, {wide}], the smaller one first, that leave it below 180 degrees."
        )
    if cfg.relative_radius and narrow <= 0:
        raise UserError(
            f"data.fovy_range is [{narrow}, {wide}], and with data.relative_radius a field of view "
            "of 0 is seen from infinitely far away; let it begin above 0."
        )


def scenes_of_views(
    cfg: Any,
    rng: torch.Generator,
    count: int,
    elevation_range: Bounds,
    azimuth_range: Bounds,
) -> Cameras:
    """``count / n_view`` scenes, ``n_view`` views of each; ranges in degrees.

    azimuth_k = low + (high - low) (u + k) / n_view,   k = 0 ... n_view - 1
    distance = camera_distance / tan(fovy / 2),        with relative_radius
    fovy = zoom fovy                                   thereafter
    """
    views = cfg.n_view
    draws = Draws(rng, count, views)
    elevation = sample_elevation(draws, elevation_range)
    low, high = azimuth_range
    azimuth = low + (high - low) * (draws.rand() + torch.arange(count) % views) / views
    fovy_deg = draws.uniform(cfg.fovy_range)
    distances = draws.uniform(cfg.camera_distance_range)
    if cfg.relative_radius:
        distances = distances / torch.tan(torch.deg2rad(fovy_deg) / 2)
    cameras = placed(cfg, draws, elevation, azimuth, distances)
    fovy_deg = fovy_deg * draws.uniform(cfg.zoom_range)
    return {**cameras, "fovy_deg": fovy_deg, "light_positions": lit(cfg, draws, cameras)}


@register("mvdream-random-multiview-camera-datamodule")
class RandomMultiviewCameraDataModule(RandomCameraDataModule):
    """Random scenes of ``n_view`` views for training; evaluation is that of the single views, at
    ``eval_camera_distance`` in scene units."""

    keys = RandomMultiviewCameraDataModuleConfig
    check = staticmethod(check_scenes)
    draw = staticmethod(scenes_of_views)
