"""The pretended device refuses what CUDA refuses, and counts where a program waits for it."""

import io

import pytest
import torch
from kit import on
from pretended import DeviceMixError, is_pretended, pretended, tally
from torch import nn

from threestudio_asd.kernels import volrend

pytestmark = pytest.mark.on_device


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
