"""The scenes of tiny-shapes: 12 objects x 8 colours as signed-distance functions.

Coordinates: z up, the object's front faces +x (azimuth 0 of threestudio's cameras), everything
lies inside a ball of radius 0.95 around the origin. Some parts keep a colour of their own (a tree's
trunk is brown whatever the tree's colour).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.11, 0.12),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.94, 0.85, 0.14),
    "green": (0.15, 0.65, 0.20),
    "cyan": (0.15, 0.80, 0.85),
    "blue": (0.13, 0.25, 0.85),
    "purple": (0.50, 0.16, 0.70),
    "pink": (0.96, 0.50, 0.72),
}
BROWN = (0.42, 0.26, 0.13)
WHITE = (0.93, 0.93, 0.93)
ORANGE = (0.95, 0.45, 0.05)

WORLD_VERSION = "2dddac350942"
"""Names what the world looks like: scenes, shading and cameras. Truth that was rendered and
figures that were measured under another name are not mixed with today's; change it with them."""

HELD_OUT: tuple[tuple[str, str], ...] = (
    ("mug", "purple"),
    ("cube", "pink"),
    ("chair", "cyan"),
    ("tree", "yellow"),
    ("mushroom", "green"),
    ("house", "blue"),
    ("snowman", "red"),
    ("torus", "orange"),
)
"""(object, colour) pairs that the teacher never sees in training."""

Points = Float[Tensor, "*n 3"]
Distances = Float[Tensor, "*n"]


def _sphere(p: Tensor, center: tuple, radius: float) -> Tensor:
    return (p - p.new_tensor(center)).norm(dim=-1) - radius


def _box(p: Tensor, center: tuple, half: tuple, rounding: float = 0.0) -> Tensor:
    q = (p - p.new_tensor(center)).abs() - (p.new_tensor(half) - rounding)
    outside = q.clamp(min=0).norm(dim=-1)
    return outside + q.amax(dim=-1).clamp(max=0) - rounding


def _cylinder(p: Tensor, center: tuple, radius: float, half_height: float) -> Tensor:
    q = p - p.new_tensor(center)
    d = torch.stack((q[..., :2].norm(dim=-1) - radius, q[..., 2].abs() - half_height), -1)
    return d.clamp(min=0).norm(dim=-1) + d.amax(dim=-1).clamp(max=0)


def _cone(p: Tensor, base_z: float, apex_z: float, radius: float) -> Tensor:
    """A capped cone around the z axis; exact to the slanted side, a lower bound near the rim."""
    height = apex_z - base_z
    slant = (height**2 + radius**2) ** 0.5
    side = (p[..., :2].norm(dim=-1) * height + (p[..., 2] - apex_z) * radius) / slant
    return torch.maximum(side, base_z - p[..., 2])


def _torus(p: Tensor, center: tuple, major: float, minor: float, axis: int = 2) -> Tensor:
    q = p - p.new_tensor(center)
    plane = [i for i in range(3) if i != axis]
    ring = q[..., plane].norm(dim=-1) - major
    return torch.stack((ring, q[..., axis]), -1).norm(dim=-1) - minor


@dataclass(frozen=True)
class Part:
    """A piece of an object; ``color`` None takes the colour that the caption names."""

    distance: Callable[[Tensor], Tensor]
    color: tuple[float, float, float] | None = None


def _mug_body(p: Tensor) -> Tensor:
    shell = _cylinder(p, (0, -0.12, 0), 0.48, 0.58)
    hollow = _cylinder(p, (0, -0.12, 0.14), 0.39, 0.58)
    return torch.maximum(shell, -hollow)


def _mug_handle(p: Tensor) -> Tensor:
    ring = _torus(p, (0, 0.38, 0), 0.32, 0.085, axis=0)
    return torch.maximum(ring, -_cylinder(p, (0, -0.12, 0.0), 0.44, 0.6))


def _legs(p: Tensor, spread: float, half: float, bottom: float, top: float) -> Tensor:
    # The four legs are one leg mirrored into the first quadrant.
    folded = torch.cat((p[..., :2].abs(), p[..., 2:]), dim=-1)
    center = (spread, spread, (bottom + top) / 2)
    return _box(folded, center, (half, half, (top - bottom) / 2))


def _roof(p: Tensor) -> Tensor:
    """A gable roof with its ridge along x."""
    slope = (p[..., 1].abs() * 0.62 + (p[..., 2] - 0.80) * 0.7846) / 1.0
    slab = torch.maximum(slope, 0.16 - p[..., 2])
    return torch.maximum(slab, p[..., 0].abs() - 0.56)


OBJECTS: dict[str, tuple[Part, ...]] = {
    "cube": (Part(lambda p: _box(p, (0, 0, 0), (0.5, 0.5, 0.5), 0.03)),),
    "sphere": (Part(lambda p: _sphere(p, (0, 0, 0), 0.75)),),
    "cylinder": (Part(lambda p: _cylinder(p, (0, 0, 0), 0.42, 0.72)),),
    "cone": (Part(lambda p: _cone(p, -0.62, 0.85, 0.62)),),
    "torus": (Part(lambda p: _torus(p, (0, 0, 0), 0.60, 0.24)),),
    "mug": (Part(_mug_body), Part(_mug_handle)),
    "table": (
        Part(lambda p: _box(p, (0, 0, 0.36), (0.64, 0.64, 0.08), 0.02)),
        Part(lambda p: _legs(p, 0.52, 0.08, -0.6, 0.30), BROWN),
    ),
    "chair": (
        Part(lambda p: _box(p, (0, 0, -0.05), (0.42, 0.42, 0.07), 0.02)),
        Part(lambda p: _box(p, (-0.36, 0, 0.40), (0.06, 0.42, 0.44), 0.02)),
        Part(lambda p: _legs(p, 0.34, 0.065, -0.72, -0.1), BROWN),
    ),
    "snowman": (
        Part(lambda p: _sphere(p, (0, 0, -0.40), 0.45), WHITE),
        Part(lambda p: _sphere(p, (0, 0, 0.45), 0.34), WHITE),
        Part(lambda p: _torus(p, (0, 0, 0.12), 0.26, 0.13)),
        Part(lambda p: _sphere(p, (0.36, 0, 0.46), 0.10), ORANGE),
    ),
    "tree": (
        Part(lambda p: _cylinder(p, (0, 0, -0.55), 0.13, 0.33), BROWN),
        Part(lambda p: torch.minimum(_cone(p, -0.32, 0.42, 0.58), _cone(p, 0.10, 0.88, 0.44))),
    ),
    "mushroom": (
        Part(lambda p: _cylinder(p, (0, 0, -0.34), 0.20, 0.46), WHITE),
        Part(lambda p: torch.maximum(_sphere(p, (0, 0, 0.05), 0.68), 0.05 - p[..., 2])),
    ),
    "house": (
        Part(lambda p: _box(p, (0, 0, -0.20), (0.50, 0.52, 0.40)), WHITE),
        Part(_roof),
        Part(lambda p: _box(p, (0.49, 0, -0.36), (0.04, 0.14, 0.24)), BROWN),
    ),
}


def _parts(name: str) -> tuple[Part, ...]:
    if name not in OBJECTS:
        raise KeyError(f"unknown object {name!r}; the objects are {', '.join(OBJECTS)}")
    return OBJECTS[name]


def sdf(name: str, xyz: Points) -> Distances:
    """Signed distance (negative inside) of object ``name`` at ``xyz``; a lower bound of the
    true distance wherever parts are intersected, so sphere tracing never overshoots.

    Raises KeyError for an unknown object.
    """
    return torch.stack([part.distance(xyz) for part in _parts(name)]).amin(dim=0)


def color(name: str, color_name: str, xyz: Points) -> Points:
    """RGB in [0, 1] at ``xyz`` (meant near the surface): the colour of the nearest part.

    Raises KeyError for an unknown object or colour.
    """
    if color_name not in COLORS:
        raise KeyError(f"unknown colour {color_name!r}; the colours are {', '.join(COLORS)}")
    parts = _parts(name)
    nearest = torch.stack([part.distance(xyz) for part in parts]).argmin(dim=0)
    palette = xyz.new_tensor([part.color or COLORS[color_name] for part in parts])
    return palette[nearest]


def normal(name: str, xyz: Points, eps: float = 1e-3) -> Points:
    """Unit outward normal by central differences with step ``eps`` (in scene units)."""
    steps = torch.eye(3, dtype=xyz.dtype, device=xyz.device) * eps
    gradient = torch.stack([sdf(name, xyz + d) - sdf(name, xyz - d) for d in steps], dim=-1)
    return torch.nn.functional.normalize(gradient, dim=-1)


def training_pairs() -> list[tuple[str, str]]:
    """All (object, colour) pairs the teacher may see: every pair but :data:`HELD_OUT`."""
    return [(o, c) for o in OBJECTS for c in COLORS if (o, c) not in HELD_OUT]
