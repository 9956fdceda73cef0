"""Triangles in clip space for the tests of rasterisation."""

import math

import torch


def soup(kind, n, images=1, dtype=torch.float64):
    """``n`` random triangles without shared vertices: pos (images, 3 n, 4), tri (n, 3)."""
    shape = (images, n, 3, 1)
    centre = 2 * torch.rand(images, n, 1, 2) - 1
    w = 0.5 + torch.rand(shape)
    xy = (centre + 0.3 * torch.randn(images, n, 3, 2)) * w
    z = (1.8 * torch.rand(shape) - 0.9) * w
    if kind == "clipped":  # through the near and far planes, through w = 0 and behind the eye
        z, w = z * 3, w - 0.8 * torch.rand(shape) * (torch.rand(images, n, 1, 1) < 0.7) * 2
    elif kind == "off-screen":
        xy[:, :, 0] *= 10 ** (5 * torch.rand(images, n, 1))
    pos = torch.cat([xy, z, w], dim=-1)
    if kind == "degenerate":
        for k in range(0, n, 4):
            pos[:, k, 1] = pos[:, k, 0]
            pos[:, k + 1, 2] = 0.5 * (pos[:, k + 1, 0] + pos[:, k + 1, 1])
            pos[:, k + 2, :, :] = 0
    # Rounded, so that float32 and float64 draw the same triangles.
    pos = pos.float().to(dtype).view(images, 3 * n, 4)
    return pos, torch.arange(3 * n, dtype=torch.int32).view(n, 3)


def sphere(rings=12, radius=0.6, dtype=torch.float64):
    """A closed sphere around the origin: vertices (Nv, 3), faces (Nt, 3) seen from outside."""
    sectors = 2 * rings
    polar = math.pi * torch.arange(1, rings, dtype=dtype)[:, None] / rings
    around = 2 * math.pi * torch.arange(sectors, dtype=dtype)[None, :] / sectors
    x, y = polar.sin() * around.cos(), polar.sin() * around.sin()
    body = torch.stack([x, y, polar.cos().expand_as(x)], dim=-1).view(-1, 3)
    poles = torch.tensor([[0, 0, 1], [0, 0, -1]], dtype=dtype)
    north, south = len(body), len(body) + 1
    faces = []
    for s in range(sectors):
        t, last = (s + 1) % sectors, (rings - 2) * sectors
        faces += [[north, s, t], [south, last + t, last + s]]
        for r in range(0, last, sectors):
            a, b, c, d = r + s, r + t, r + sectors + s, r + sectors + t
            faces += [[a, c, b], [b, c, d]]
    return radius * torch.cat([body, poles]), torch.tensor(faces, dtype=torch.int32)


def project(vertices, distance=3.0, near=0.5, far=10.0, focal=2.0):
    """Clip space (1, Nv, 4) for a camera on the z axis that looks at the origin."""
    x, y, depth = vertices[:, 0], vertices[:, 1], distance - vertices[:, 2]
    z = (far + near) / (far - near) * depth - 2 * far * near / (far - near)
    return torch.stack([focal * x, focal * y, z, depth], dim=-1)[None]
