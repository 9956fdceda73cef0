"""Rendered training sets of tiny-shapes, built once and cached on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from threestudio_asd.files import written_whole
from threestudio_asd.parallel import at_once
from threestudio_asd.tiny.captions import VIEWS, view_label
from threestudio_asd.tiny.render import EVAL_SIZE, camera_to_world, distance_for, render
from threestudio_asd.tiny.scenes import COLORS, OBJECTS

OBJECT_NAMES = tuple(OBJECTS)
COLOR_NAMES = tuple(COLORS)


@dataclass
class Renders:
    """``images`` (N, 3, 64, 64) uint8; the labels are (N,) indices into the name tuples."""

    images: Tensor
    objects: Tensor
    colors: Tensor
    views: Tensor
    normal_maps: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> "Renders":
        return Renders(**{name: value.to(device) for name, value in vars(self).items()})

    def save(self, path: Path) -> None:
        torch.save(vars(self), path)

    @classmethod
    def load(cls, path: Path) -> "Renders":
        return cls(**torch.load(path, weights_only=True))


def random_cameras(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Cameras and backgrounds of training: elevation mostly -10..60, some up to 80 degrees."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    elevation = torch.where(uniform(0.0, 1.0) < 0.85, uniform(-10.0, 60.0), uniform(60.0, 80.0))
    fovy = uniform(38.0, 55.0)
    grey = uniform(0.15, 0.92)[:, None]
    tint = 0.04 * torch.randn(count, 3, generator=generator)
    return {
        "azimuth": uniform(-180.0, 180.0),
        "elevation": elevation,
        "distance": distance_for(fovy, uniform(0.9, 1.22)),
        "fovy": fovy,
        "background": (grey + tint).clamp(0, 1),
        "light_offset": 0.3 * torch.randn(count, 3, generator=generator),
    }


@dataclass
class Scenes:
    """Views of scenes: ``images`` (S, V, 3, 64, 64) uint8 from ``c2w`` (S, V, 4, 4), cameras to
    world, or ``cameras``: ``azimuth``, ``elevation``, ``distance`` and ``fovy`` (degrees), each
    (S, V); labels are as those of :class:`Renders`, ``views`` (S, V)."""

    images: Tensor
    c2w: Tensor
    cameras: dict[str, Tensor]
    objects: Tensor
    colors: Tensor
    views: Tensor
    normal_maps: Tensor

    def __len__(self) -> int:
        return len(self.images)


def scene_cameras(count: int, views: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Cameras of ``count`` scenes, (count * views,), the views of a scene together.

    As MVDream has them (arXiv:2308.16512, section 4): azimuths at equal distances from a random
    first one; elevation, distance, field of view, light and background shared.
    """
    cameras = random_cameras(count, generator)
    cameras = {key: value.repeat_interleave(views, 0) for key, value in cameras.items()}
    turns = torch.arange(views).repeat(count) * (360.0 / views)
    cameras["azimuth"] = (cameras["azimuth"] + turns + 180.0) % 360.0 - 180.0
    return cameras


def build_scenes(
    count: int,
    views: int,
    seed: int,
    pairs: list[tuple[str, str]],
    normal_fraction: float,
    chunk: int = 64,
) -> Scenes:
    """Render ``views`` views of ``count`` scenes of ``pairs`` in equal shares, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(count) % len(pairs)
    normal_maps = torch.rand(count, generator=generator) < normal_fraction
    cameras = scene_cameras(count, views, generator)
    images = torch.empty(count * views, 3, EVAL_SIZE, EVAL_SIZE, dtype=torch.uint8)

    def shown(pair: int, is_normal: bool, ids: Tensor) -> None:
        ids = (ids[:, None] * views + torch.arange(views)).flatten()
        view = {key: value[ids] for key, value in cameras.items()}
        rgb, _ = render(*pairs[pair], **view, normal_map=is_normal)
        images[ids] = (rgb * 255).round().to(torch.uint8)

    _render(shown, which, normal_maps, chunk // views)
    c2w = camera_to_world(*(cameras[key] for key in ("azimuth", "elevation", "distance")))
    angles = zip(cameras["azimuth"].tolist(), cameras["elevation"].tolist(), strict=True)
    labels = torch.tensor([VIEWS.index(view_label(*angle)) for angle in angles])
    order = torch.randperm(count, generator=generator)
    told = ("azimuth", "elevation", "distance", "fovy")
    return Scenes(
        images.unflatten(0, (count, views))[order],
        c2w.unflatten(0, (count, views))[order],
        {key: cameras[key].unflatten(0, (count, views))[order] for key in told},
        torch.tensor([OBJECT_NAMES.index(pairs[i][0]) for i in which])[order],
        torch.tensor([COLOR_NAMES.index(pairs[i][1]) for i in which])[order],
        labels.unflatten(0, (count, views))[order],
        normal_maps[order],
    )


def build(
    count: int,
    seed: int,
    pairs: list[tuple[str, str]],
    normal_fraction: float,
    chunk: int = 64,
    device: torch.device | str = "cpu",
) -> Renders:
    """Render ``count`` images of ``pairs`` in equal shares, shuffled; the result is on the CPU.

    Cameras and labels do not depend on ``device``, where ``chunk`` images are rendered at a time.
    """
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(count) % len(pairs)
    normal_maps = torch.rand(count, generator=generator) < normal_fraction
    cameras = random_cameras(count, generator)
    images = torch.empty(count, 3, EVAL_SIZE, EVAL_SIZE, dtype=torch.uint8)

    def shown(pair: int, is_normal: bool, ids: Tensor) -> None:
        view = {key: value[ids].to(device) for key, value in cameras.items()}
        rgb, _ = render(*pairs[pair], **view, normal_map=is_normal)
        images[ids] = (rgb * 255).round().to("cpu", torch.uint8)

    _render(shown, which, normal_maps, chunk, torch.device(device).type == "cpu")
    labels = [
        VIEWS.index(view_label(float(a), float(e)))
        for a, e in zip(cameras["azimuth"], cameras["elevation"], strict=True)
    ]
    order = torch.randperm(count, generator=generator)
    return Renders(
        images[order],
        torch.tensor([OBJECT_NAMES.index(pairs[i][0]) for i in which])[order],
        torch.tensor([COLOR_NAMES.index(pairs[i][1]) for i in which])[order],
        torch.tensor(labels)[order],
        normal_maps[order],
    )


def _render(
    shown: Callable[[int, bool, Tensor], None],
    which: Tensor,
    normal_maps: Tensor,
    chunk: int,
    at_a_time: bool = True,
) -> None:
    """``shown(pair, is_normal, ids)`` for all items, at most ``chunk`` of a kind in a call; several
    calls at a time, unless they need a device for themselves."""
    jobs = []
    for pair in which.unique().tolist():
        for is_normal in (False, True):
            members = torch.nonzero((which == pair) & (normal_maps == is_normal)).squeeze(-1)
            if len(members):
                jobs += [(shown, (pair, is_normal, ids)) for ids in members.split(chunk)]
    step = 8 if at_a_time else 1
    for start in track(range(0, len(jobs), step), description="rendering"):
        at_once(jobs[start : start + step])


def cached(path: Path, *args, **kwargs) -> Renders:
    """:func:`build`, read back from ``path`` if it was built before."""
    if path.exists():
        return Renders.load(path)
    renders = build(*args, **kwargs)
    with written_whole(path) as partial:
        renders.save(partial)
    return renders
