"""Slips that are planted into our own code are found on the pretended device."""

import ast
import inspect
import textwrap

import pytest
import torch
from kit import on
from pretended import DeviceMixError, pretended

from threestudio_asd.critics.camera import CameraEmbedding
from threestudio_asd.distill import schedule, timesteps
from threestudio_asd.kernels import (
    _hashgrid_ops,
    antialias,
    hashgrid,
    march,
    occgrid,
    rasterize,
    texture,
)
from threestudio_asd.scene import cameras, marching_tetrahedra, mesh, normals
from threestudio_asd.studio.models.renderer import samples

pytestmark = pytest.mark.on_device


def plant(monkeypatch, owner, name, old, new):
    """Put ``new`` for ``old`` in the source of a function or method of ours."""
    function = inspect.unwrap(getattr(owner, name))
    lines, first = inspect.getsourcelines(function)
    source = textwrap.dedent("".join(lines))
    assert source.count(old) >= 1, source
    tree = ast.increment_lineno(ast.parse(source.replace(old, new)), first - 1)
    scope = dict(function.__globals__)
    exec(compile(tree, function.__code__.co_filename, "exec"), scope)
    monkeypatch.setattr(owner, name, scope[name])


def clip_space(d):
    pos = torch.tensor([[-1.0, -1, 0, 1], [1, -1, 0, 1], [0, 1, 0, 1]], device=d)
    return pos[None], torch.tensor([[0, 1, 2]], dtype=torch.int32, device=d)


def drawn(d):
    pos, tri = clip_space(d)
    return rasterize.rasterize(pos, tri, (4, 4))[0], pos, tri


def smoothed(d):
    rast, pos, tri = drawn(d)
    return antialias.antialias(on(d, 1, 4, 4, 3), rast, pos, tri)


def marched(d):
    rays_o, rays_d = torch.tensor([[-2.0, 0, 0]], device=d), torch.tensor([[1.0, 0, 0]], device=d)
    aabbs = torch.tensor([[-1.0, -1, -1, 1, 1, 1]], device=d)
    grid = torch.ones(1, 2, 2, 2, dtype=torch.bool, device=d)
    ends = torch.zeros(1, device=d), torch.full((1,), 9.0, device=d)
    return march.march(rays_o, rays_d, aabbs, grid, *ends, 0.5)


def encoded(d):
    encoding = hashgrid.HashGrid(n_levels=2, log2_hashmap_size=4).to(d)
    encoding(on(d, 5, 3)).sum().backward()
    return encoding


def filled(d):
    grid = occgrid.OccGridEstimator([-1.0, -1, -1, 1, 1, 1], resolution=2).to(d).train()
    grid.update_every_n_steps(0, lambda x: x[:, :1], n=1)
    grid.update_every_n_steps(999, lambda x: x[:, :1], n=1)


def tetrahedron(d):
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], device=d)
    level = torch.tensor([-1.0, 1, 1, 1], device=d)
    return marching_tetrahedra.marching_tetrahedra(
        corners, level, torch.tensor([[0, 1, 2, 3]], device=d)
    )


def surface(d):
    return mesh.Mesh(*tetrahedron(d))


def noisy(d):
    plan = schedule.DiscreteSchedule(torch.linspace(0.9, 0.1, 10))
    return plan.add_noise(on(d, 2, 1, 2, 2), on(d, 2, 1, 2, 2), torch.tensor([3, 4], device=d))


def camera_labels(d):
    embedding = CameraEmbedding(8).to(d)
    return embedding(embedding.labels(None, like=on(d, 1, 4, 2, 2)))


SLIPS = {
    # name: where, function, what stands there, the slip, what meets it
    "the march's counts": (
        march,
        "march",
        "int64, device=device)\n    nothing",
        "int64)\n    nothing",
        marched,
    ),
    "the march's rays": (
        march,
        "march",
        "rays = torch.empty(total, dtype=torch.int64, device=device)",
        "rays = torch.empty(total, dtype=torch.int64)",
        marched,
    ),
    "the rasteriser's keys": (rasterize, "_cover", ", device=device", "", drawn),
    "the rasteriser's ranges": (
        rasterize,
        "rasterize",
        "ranges.to(pos.device, torch.int32)",
        "ranges.to('cpu', torch.int32)",
        drawn,
    ),
    "links of triangles": (
        antialias,
        "edge_links",
        "torch.int32, device=tri.device",
        "torch.int32",
        smoothed,
    ),
    "the hash grid's features": (
        _hashgrid_ops._Encode,
        "forward",
        "x.new_empty(",
        "torch.empty(",
        encoded,
    ),
    "the hash grid's gradient": (
        _hashgrid_ops._TableGrad,
        "forward",
        "x.new_zeros(",
        "torch.zeros(",
        encoded,
    ),
    "cells of the occupancy grid": (
        occgrid.OccGridEstimator,
        "_random_cells",
        "(count,), device=device)\n    occupied",
        "(count,))\n    occupied",
        filled,
    ),
    "points in its cells": (occgrid.OccGridEstimator, "_update", ", device=box.device", "", filled),
    "bits of the tetrahedra": (
        marching_tetrahedra,
        "marching_tetrahedra",
        "_tables(level.device)",
        "_tables(torch.device('cpu'))",
        tetrahedron,
    ),
    "the mesh's large parts": (
        mesh.Mesh,
        "remove_outlier",
        ".cpu().numpy()",
        ".numpy()",
        lambda d: surface(d).remove_outlier(1),
    ),
    "the schedule": (schedule.DiscreteSchedule, "signal", ".to(t.device)", "", noisy),
    "its values": (schedule.DiscreteSchedule, "sigma", ".to(like)", ".cpu()", noisy),
    "the timesteps' generator": (
        timesteps.TimestepRange,
        "sample",
        "generator=generator",
        "generator=torch.Generator()",
        lambda d: timesteps.TimestepRange(0, 9).sample(2, d),
    ),
    "the critic's camera": (CameraEmbedding, "labels", ", device=like.device", "", camera_labels),
    "pixels of the rays": (
        cameras,
        "camera_rays",
        "(width, device=c2w.device)",
        "(width)",
        lambda d: cameras.camera_rays(torch.eye(4, device=d)[None], on(d, 1), 2, 2),
    ),
    "straight up": (
        cameras,
        "look_at",
        "right.new_tensor(",
        "torch.tensor(",
        lambda d: cameras.look_at(on(d, 1, 3), on(d, 1, 3), on(d, 1, 3)),
    ),
    "steps of the normals": (
        normals,
        "_shifted",
        "device=points.device, ",
        "",
        lambda d: normals._shifted(on(d, 2, 3), 0.1, 1.0),
    ),
    "a sample of no length": (
        samples.RaySamples,
        "at",
        "index)",
        "index.cpu())",
        lambda d: samples.RaySamples(
            on(d, 1, 3),
            on(d, 1, 3),
            torch.zeros(2, dtype=torch.int64, device=d),
            on(d, 2),
            on(d, 2),
        ).at(torch.tensor([0], device=d)),
    ),
    "the texture's size": (
        texture,
        "_texels",
        "at.new_tensor(",
        "torch.tensor(",
        lambda d: texture.texture(on(d, 1, 4, 4, 3), on(d, 1, 2, 2, 2)),
    ),
}


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
def test_a_planted_slip_is_found(monkeypatch, slip):
    owner, name, old, new, call = slip
    with pretended() as place:
        call(place)
        plant(monkeypatch, owner, name, old, new)
        with pytest.raises((DeviceMixError, TypeError), match=r"threestudio_asd/.*\.py:\d+: "):
            call(place)
