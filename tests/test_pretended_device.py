"""The pretended device refuses what CUDA refuses, and finds slips in our own code."""

import ast
import inspect
import io
import textwrap

import pytest
import torch
from pretended_device import DeviceMixError, is_pretended, pretended, tally
from torch import nn

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
    volrend,
)
from threestudio_asd.scene import cameras, marching_tetrahedra, mesh, normals
from threestudio_asd.studio.models.renderer import samples

pytestmark = pytest.mark.on_device


def on(place, *shape):
    return torch.rand(*shape, device=place)


# --------------------------------------------------------------------------- the device

MIXED = {
    "sum": lambda d: on(d, 3) + torch.ones(3),
    "in place": lambda d: on(d, 3).add_(torch.ones(3)),
    "into the CPU's": lambda d: torch.ones(3).add_(on(d, 3)),
    "matrix product": lambda d: torch.ones(2, 3) @ on(d, 3),
    "joined": lambda d: torch.cat([on(d, 3), torch.ones(3)]),
    "where": lambda d: torch.where(on(d, 3) > 0, on(d, 3), torch.ones(3)),
    "assigned": lambda d: torch.ones(3).index_put_((on(d, 2).long(),), torch.ones(2)),
    "a CPU tensor by indices of the device": lambda d: torch.ones(3)[on(d, 2).long()],
    "embedding": lambda d: nn.Embedding(3, 2).to(d)(torch.tensor([0, 1])),
    "gather": lambda d: on(d, 3, 3).gather(0, torch.zeros(1, 3).long()),
    "index_select": lambda d: on(d, 3).index_select(0, torch.tensor([1])),
    "scatter": lambda d: on(d, 3).scatter_(0, torch.tensor([1]), 2.0),
    "layer": lambda d: nn.Linear(3, 2).to(d)(torch.ones(1, 3)),
    "loss": lambda d: nn.functional.mse_loss(on(d, 3), torch.ones(3)),
    "a list of tensors": lambda d: torch._foreach_add([on(d, 3)], [torch.ones(3)]),
    "data": lambda d: setattr(on(d, 3), "data", torch.ones(3)),
    "a generator of the CPU": lambda d: torch.rand(2, device=d, generator=torch.Generator()),
    "another's generator": lambda d: on(d, 3).uniform_(generator=torch.Generator()),
}


@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED)
def test_it_refuses_to_mix(mix):
    with pretended() as place, pytest.raises(DeviceMixError, match=r"tests/test_pretended.*\.py:"):
        mix(place)


@pytest.mark.parametrize("what", ["numpy", "data_ptr", "__array__"])
def test_it_has_no_numpy_and_no_pointers(what):
    with pretended() as place, pytest.raises(TypeError, match="float32\\[3\\] on pretended:0"):
        getattr(on(place, 3), what)()


def test_numbers_and_indices_of_the_cpu_pass():
    with pretended() as place:
        x = on(place, 4, 2)
        assert is_pretended(x * torch.tensor(2.0) + 1)
        assert is_pretended(torch.where(x > 0.5, x, torch.tensor(0.0)))
        with tally() as counts:
            assert x[torch.tensor([0, 2])].tolist() == [x[0].tolist(), x[2].tolist()]
        assert sum(counts.uploads.values()) == 1
        x[torch.tensor([1])] = torch.tensor(7.0)
        assert (x[1] == 7).all()


def test_tensors_go_there_and_back_as_copies():
    plain = torch.arange(3.0)
    with pretended() as place:
        there = plain.to(place)
        assert (there.device, there.device.type, there.is_cpu) == (place, "pretended", False)
        there += 1
        back = there.cpu()
        there += 1
        assert (plain.tolist(), back.tolist(), there.tolist()) == ([0, 1, 2], [1, 2, 3], [2, 3, 4])
        assert torch.tensor([1.0], device=place).device == place
        assert torch.zeros_like(there).new_ones(2).arctan().device == place


def test_modules_keep_their_parameters_and_train():
    layer = nn.Linear(3, 2)
    weight, start = layer.weight, layer.weight.detach().clone()
    with pretended() as place:
        layer.to(place)
        assert layer.weight is weight and is_pretended(weight)
        assert isinstance(weight, nn.Parameter)
        optimizer = torch.optim.Adam(layer.parameters())
        view = layer(on(place, 4, 3))
        view[:, 0].square().sum().backward()
        assert is_pretended(weight.grad)
        optimizer.step()
        layer.weight.data = layer.weight.data * 2
        twice = layer.weight.tolist()
        layer.cpu()
    assert layer.weight.tolist() == twice
    assert not torch.equal(layer.weight, start) and type(layer.weight) is nn.Parameter


def test_operations_in_place_change_sizes():
    with pretended() as place:
        x = on(place, 3)
        x.unsqueeze_(0)
        assert x.shape == (1, 3)
        x.resize_(2, 2).zero_()
        assert x.tolist() == [[0, 0], [0, 0]] and x.stride() == (2, 1)
        x.t()[0] = 1
        assert x[:, 0].tolist() == [1, 1]


def test_autocast_computes_there():
    with pretended() as place, torch.autocast("pretended", enabled=False):
        assert is_pretended(nn.Linear(3, 2).to(place)(on(place, 1, 3)))


def test_what_is_saved_are_plain_tensors():
    with pretended() as place:
        layer, file = nn.Linear(3, 2).to(place), io.BytesIO()
        torch.save({"state": layer.state_dict(), "weight": layer.weight}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert [type(x) for x in loaded["state"].values()] == [torch.Tensor] * 2
    assert type(loaded["weight"]) is nn.Parameter
    assert loaded["weight"].tolist() == layer.weight.tolist()


# --------------------------------------------------------------------------- waiting

WAITS = {
    "item": (1, lambda x: x.sum().item()),
    "bool": (1, lambda x: bool((x > 0).all())),
    "float": (1, lambda x: float(x[0, 0])),
    "list": (1, lambda x: x.tolist()),
    "copy": (1, lambda x: x.cpu()),
    "copy into": (1, lambda x: torch.empty(4, 2).copy_(x)),
    "nonzero": (1, lambda x: x.nonzero()),
    "where": (1, lambda x: torch.where(x > 0.5)),
    "mask": (1, lambda x: x[x > 0.5]),
    "mask of rows": (1, lambda x: x[x[:, 0] > 0.5, 1]),
    "masked_select": (1, lambda x: x.masked_select(x > 0.5)),
    "assigned by a mask": (1, lambda x: x.index_put_((x[:, 0] > 2,), x[:0])),
    "unique": (1, lambda x: x.unique()),
    "bincount": (1, lambda x: x[:, 0].long().bincount()),
    "repeat_interleave": (1, lambda x: x.repeat_interleave(torch.ones_like(x[:, 0]).long(), 0)),
    "equal": (1, lambda x: torch.equal(x, x + 1)),
    "inverse": (1, lambda x: torch.linalg.inv(x[:2])),
    "filled by a mask": (0, lambda x: x.__setitem__(x > 0.5, 0.0)),
    "where, all of them": (0, lambda x: torch.where(x > 0.5, x, 0.0)),
    "indices": (0, lambda x: x[x[:, 0].long()]),
    "a size that is known": (
        0,
        lambda x: x.repeat_interleave(torch.ones_like(x[:, 0]).long(), 0, output_size=4),
    ),
    "arithmetic": (0, lambda x: (x @ x.T).softmax(-1).argmax()),
    "a copy that does not block": (0, lambda x: x.to("cpu", non_blocking=True)),
}


@pytest.mark.parametrize(("waits", "call"), WAITS.values(), ids=WAITS)
def test_waiting_is_counted(waits, call):
    with pretended() as place:
        x = on(place, 4, 2)
        with tally() as counts:
            call(x)
    assert sum(counts.values()) == waits, counts.kinds
    assert all(line.startswith("tests/test_pretended_device.py:") for line in counts)


def test_uploads_are_counted_apart():
    with pretended() as place, tally() as counts:
        torch.ones(3).to(place)
        torch.tensor([1.0], device=place)
        torch.zeros(3, device=place)
    assert (sum(counts.values()), sum(counts.uploads.values())) == (0, 2)


def test_the_line_is_the_innermost_of_the_package():
    with pretended() as place, tally() as counts:
        volrend.pack_info(torch.tensor([0, 0, 1], device=place), 2)
    assert counts and all(line.startswith("threestudio_asd/kernels/volrend.py") for line in counts)


# --------------------------------------------------------------------------- planted slips


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
