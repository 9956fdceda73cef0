"""Pieces of a batch: the numbers and gradients of a plain call, whatever the number of threads."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from threestudio_asd.critics.lora import LoRACritic
from threestudio_asd.parallel import map_batch, splitting, trained
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher

PIECES_AND_THREADS = [(2, 1), (2, 2), (3, 2), (4, 4)]


def double(*shape, grad=True):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize(("pieces", "threads"), PIECES_AND_THREADS)
def test_gradients_of_rows_common_tensors_and_parameters(pieces, threads):
    torch.manual_seed(0)
    weight = double(3, 2)

    def function(x, y, common):
        return (x @ weight).sin() * common + y

    def mapped(x, y, common, weight):
        return map_batch(function, x, y, common=(common,), parameters=(weight,))

    arguments = double(5, 3), double(5, 2), double(2), weight
    with splitting(pieces, threads):
        assert gradcheck(mapped, arguments)
        torch.testing.assert_close(mapped(*arguments), function(*arguments[:3]))


@pytest.mark.parametrize(("pieces", "threads"), PIECES_AND_THREADS)
def test_dictionaries_of_any_length(pieces, threads):
    """Pieces may return more or fewer rows than they were given, and what has no gradient."""

    def function(x, number):
        kept = x[:, 0] > 0
        return {"kept": x[kept].square(), "number": number[kept], "mean": x.mean(-1)}

    x, number = double(7, 3), torch.arange(7)
    with splitting(pieces, threads):
        found = map_batch(function, x, number)
        plain = function(x, number)
        for key in plain:
            torch.testing.assert_close(found[key], plain[key])
        assert not found["number"].requires_grad
        assert gradcheck(lambda x: map_batch(function, x, number)["kept"], (x,))
        (some,) = torch.autograd.grad(found["mean"].sum(), x)
        torch.testing.assert_close(some, torch.full_like(x, 1 / 3))


def test_what_a_piece_does_not_use_has_no_gradient():
    used, unused, x = double(1), double(1), double(4, 1)

    def function(x, common):
        # The first piece alone reads the parameter and its rows.
        return x * used if x[0] > 0 else common.expand_as(x)

    with torch.no_grad():
        x.copy_(torch.tensor([[1.0], [2.0], [-1.0], [-2.0]]))
    with splitting(2, 2):
        out = map_batch(function, x, common=(double(1),), parameters=(used, unused))
        grads = torch.autograd.grad(out.sum(), (x, used, unused), allow_unused=True)
    torch.testing.assert_close(grads[0], torch.stack([used, used, 0 * used, 0 * used]))
    assert grads[1].item() == 3.0 and grads[2] is None


def test_a_common_tensor_that_depends_on_another_counts_once():
    x = double(4, 1)
    a = double(1)
    b = a.exp()
    with splitting(2, 2):
        out = map_batch(lambda x, a, b: x * a + b, x, common=(a, b))
    (grad,) = torch.autograd.grad(out.sum(), a)
    torch.testing.assert_close(grad, (x.sum() + 4 * a.exp()).detach())


@pytest.fixture(scope="module")
def networks(random_sd):
    teacher = StableDiffusionTeacher.from_pretrained(random_sd, posterior="mean")
    torch.manual_seed(0)
    critic = LoRACritic(teacher.net, rank=2, init="gaussian")
    for name, parameter in critic.named_parameters():
        if name.endswith("up.weight"):
            nn.init.normal_(parameter, std=0.1)
    return teacher, critic


def through_the_networks(teacher, critic, pieces, threads):
    """A critic's prediction of encoded images, and its gradients in images and parameters."""
    torch.manual_seed(1)
    rows = 5
    images = torch.rand(rows, 3, 64, 64, requires_grad=True)
    camera, t = torch.randn(rows, 4, 4), torch.randint(1000, (rows,))
    with splitting(pieces, threads):
        text = replace(teacher.embed_text(["a red mug"] * rows), camera=camera)
        out = critic.predict(teacher.encode(images), t, text)
        return out, *torch.autograd.grad(out.square().sum(), (images, *critic.parameters()))


@pytest.mark.parametrize(("pieces", "threads"), PIECES_AND_THREADS)
def test_networks_have_the_gradients_of_a_plain_pass(networks, pieces, threads):
    plain = through_the_networks(*networks, 1, 1)
    for a, b in zip(plain, through_the_networks(*networks, pieces, threads), strict=True):
        # Rounding alone: a batch of another size goes through other kernels of the CPU.
        assert (a - b).norm() <= 1e-4 * a.norm()


@pytest.mark.parametrize("pieces", [2, 3])
def test_networks_are_equal_to_the_bit_on_any_number_of_threads(networks, pieces):
    one = through_the_networks(*networks, pieces, 1)
    for threads in (2, 4):
        for a, b in zip(one, through_the_networks(*networks, pieces, threads), strict=True):
            assert torch.equal(a, b)


def test_an_error_in_a_backward_pass_arrives():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ZeroDivisionError("in the backward pass")

    with splitting(2, 2):
        out = map_batch(Broken.apply, double(4, 1))
        with pytest.raises(ZeroDivisionError, match="in the backward pass"):
            out.sum().backward()


def test_graphs_of_the_pieces_are_freed_with_their_own():
    class Kept(torch.autograd.Function):
        alive = []

        @staticmethod
        def forward(ctx, x):
            saved = x.clone()
            Kept.alive.append(weakref.ref(saved))
            ctx.saved = saved
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    with splitting(2, 2):
        out = map_batch(Kept.apply, double(4, 1))
        out.sum().backward(retain_graph=True)
        assert all(ref() is not None for ref in Kept.alive)
        out.sum().backward()
        assert all(ref() is None for ref in Kept.alive)
        with pytest.raises(RuntimeError, match="second time"):
            out.sum().backward()


def test_second_derivatives_are_refused():
    x = double(4, 1)
    with splitting(2, 2), pytest.raises(RuntimeError, match="pieces=1"):
        torch.autograd.grad(map_batch(torch.sin, x).sum(), x, create_graph=True)


def test_trained_parameters_alone():
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    assert [*trained(module, nn.ReLU())] == [module.weight]
