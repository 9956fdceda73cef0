"""The tap on a UNet's encoder: one pass says both, and nobody else notices."""

import copy

import pytest
import torch

from threestudio_asd import parallel
from threestudio_asd.critics.encoder import TappedUNet, parameters_at_rest
from threestudio_asd.critics.heads import Heads, convolutions
from threestudio_asd.distill.prediction_types import to_x0
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.teachers import recorded
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny.random_sd import random_unet

SCHEDULE = DiscreteSchedule.scaled_linear()
B, L, D = 3, 5, 24
BOTH = ("down", "middle")


@pytest.fixture(params=["epsilon", "v_prediction"])
def net(request):
    return FrozenUNet(random_unet(text_width=D), SCHEDULE, request.param)


@pytest.fixture
def inputs():
    return torch.randn(B, 4, 8, 8), torch.tensor([30, 500, 900]), torch.randn(B, L, D)


def asked(net, inputs):
    """The x_0 of the plain network."""
    x_t, t, text = inputs
    with torch.no_grad():
        said = net.unet(x_t, t, encoder_hidden_states=text).sample
    return to_x0(SCHEDULE, said, x_t, t, net.prediction_type)


@torch.no_grad()
def test_a_tapped_pass_predicts_what_a_plain_one_does(net, inputs):
    found = TappedUNet.frozen(net)(*inputs, BOTH)
    assert torch.equal(found.x0, asked(net, inputs))
    down, middle = found.features
    assert down.shape == middle.shape == (B, 32, 4, 4)
    # The middle block's output is what it makes of the last down block's.
    seen = []
    handle = net.unet.mid_block.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    net.unet(inputs[0], inputs[1], encoder_hidden_states=inputs[2])
    handle.remove()
    assert torch.equal(seen[0], down)
    assert not torch.equal(middle, down)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [("down",), ("middle",), BOTH, ("middle", "down")])
def test_the_encoder_alone_says_the_same_and_stops_there(net, inputs, blocks):
    tap = TappedUNet.frozen(net)
    whole = tap(*inputs, blocks).features
    passed = []
    parts = {"middle": net.unet.mid_block, "up": net.unet.up_blocks[0]}
    for name, part in parts.items():
        part.register_forward_pre_hook(lambda *args, name=name: passed.append(name))
    alone = tap.encode(*inputs, blocks)
    assert all(torch.equal(a, b) for a, b in zip(whole, alone, strict=True))
    assert passed == (["middle"] if "middle" in blocks else [])


def test_gradients_are_those_of_the_whole_pass(net, inputs):
    tap = TappedUNet.copied(net)
    x_t, t, text = inputs
    found = []
    for ask in (lambda x: tap(x, t, text, BOTH).features, lambda x: tap.encode(x, t, text, BOTH)):
        tap.unet.zero_grad()
        x = x_t.clone().requires_grad_()
        sum(f.square().sum() for f in ask(x)).backward()
        found.append((x.grad, tap.unet.conv_in.weight.grad.clone()))
    for whole, alone in zip(*found, strict=True):
        assert whole.abs().max() > 0
        torch.testing.assert_close(alone, whole)


def test_a_batch_in_pieces_says_the_same(net, inputs):
    tap = TappedUNet.copied(net)

    def run():
        tap.unet.zero_grad()
        found = tap(*inputs, BOTH)
        alone = tap.encode(*inputs, ("down",))
        sum(f.square().mean() for f in (found.x0, *found.features, *alone)).backward()
        return found.x0.detach(), *alone, tap.unet.conv_in.weight.grad.clone()

    whole = run()
    with parallel.splitting(pieces=2, threads=1):
        pieces = run()
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def trained_once(tap, inputs):
    optimizer = torch.optim.Adam(tap.trained.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        found = tap(*inputs, BOTH)
        (found.x0.square().mean() + found.features[0].square().mean()).backward()
        optimizer.step()


@pytest.mark.parametrize("make", [TappedUNet.copied, lambda net: TappedUNet.adapted(net, 4)])
def test_training_the_fake_network_leaves_the_teacher_as_it_was_to_the_bit(net, inputs, make):
    before, tapped = asked(net, inputs), TappedUNet.frozen(net).encode(*inputs, BOTH)
    state = copy.deepcopy(net.unet.state_dict())
    tap = make(net)
    with torch.no_grad():
        # The adapter's up matrices begin at zero: the fake network begins as the teacher.
        torch.testing.assert_close(tap(*inputs).x0, before)
    trained_once(tap, inputs)
    fake = tap(*inputs, BOTH)
    assert torch.equal(asked(net, inputs), before)
    again = TappedUNet.frozen(net).encode(*inputs, BOTH)
    for old, new, own in zip(tapped, again, fake.features, strict=True):
        assert torch.equal(new, old)
        assert (own - old).abs().max() > 1e-2  # the tap sees what was trained
    after = net.unet.state_dict()
    frozen = {k.replace(".base_layer", ""): v for k, v in after.items() if ".lora_" not in k}
    assert all(torch.equal(frozen[key], value) for key, value in state.items())


def test_an_adapter_is_the_only_thing_that_is_trained(net, inputs):
    tap = TappedUNet.adapted(net, 4)
    x = inputs[0].clone().requires_grad_()
    tap(x, *inputs[1:], BOTH).features[0].sum().backward()
    assert any(p.grad is not None for p in tap.trained.parameters())
    own = {id(p) for p in tap.trained.parameters()}
    assert all(p.grad is None for p in net.unet.parameters() if id(p) not in own)
    assert x.grad.abs().max() > 0


def test_parameters_at_rest_have_no_gradient_and_wake_again(net, inputs):
    tap = TappedUNet.copied(net)
    x = inputs[0].clone().requires_grad_()
    with parameters_at_rest(tap.trained, None):
        found = tap(x, *inputs[1:], BOTH)
    found.x0.sum().backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad is None and p.requires_grad for p in tap.trained.parameters())
    with pytest.raises(ValueError, match="inside"), parameters_at_rest(tap.trained):
        raise ValueError("inside")
    assert all(p.requires_grad for p in tap.trained.parameters())


def test_no_hook_stays_behind_also_after_an_error(net, inputs):
    tap = TappedUNet.frozen(net)
    tap.encode(*inputs, BOTH)
    with pytest.raises(RuntimeError):
        tap(inputs[0], inputs[1], torch.randn(B, L, D + 1), BOTH)
    hooks = [*net.unet.down_blocks[-1]._forward_hooks, *net.unet.mid_block._forward_hooks]
    assert hooks == []


@pytest.mark.parametrize("first", ["at rest", "in training"])
def test_training_on_recordings_is_equal_to_the_bit(net, inputs, monkeypatch, first):
    """Passes that are replayed follow the weights, also where these were at rest when they were
    recorded, and have the same gradients."""
    x_t, t, text = inputs
    found = {}
    for after in (10**6, 2):
        monkeypatch.setattr(recorded, "AFTER", after)
        tap = TappedUNet.copied(net)
        optimizer = torch.optim.SGD(tap.unet.parameters(), lr=0.01)
        seen = []
        for step in range(5):
            resting = (step % 2 == 0) == (first == "at rest")
            x = x_t.clone().requires_grad_(resting)
            with parameters_at_rest(tap.unet if resting else None):
                said = tap(x, t, text, BOTH)
                alone = tap.encode(x, t, text, ("down",))
            whole = (said.x0, *said.features, *alone)
            optimizer.zero_grad()
            torch.stack([y.square().mean() for y in whole]).sum().backward()
            seen += [*whole, *([x.grad] if resting else [])]
            assert all((p.grad is None) == resting for p in tap.unet.parameters())
            optimizer.step()
        found[after] = [y.detach() for y in seen], tap._recorder._recordings
    (plain, none), (replayed, used) = found.values()
    assert not none and len(used) == 2 and all(used.values())
    assert all(torch.equal(a, b) for a, b in zip(plain, replayed, strict=True))


def test_what_cannot_be_a_fake_network_is_told():
    half = FrozenUNet(random_unet(text_width=D).half(), SCHEDULE)
    with pytest.raises(UserError, match="float16"):
        TappedUNet.adapted(half)
    worn = FrozenUNet(random_unet(text_width=D), SCHEDULE)
    TappedUNet.adapted(worn, 4)
    with pytest.raises(UserError, match="adapters on it"):
        TappedUNet.copied(worn)


def test_heads():
    assert convolutions(64, 8)(torch.randn(2, 64, 8, 8)).shape == (2, 1, 1, 1)
    assert convolutions(48, 4)(torch.randn(2, 48, 4, 4)).shape == (2, 1, 1, 1)
    assert convolutions(32, 16)(torch.randn(2, 32, 16, 16)).shape == (2, 1, 2, 2)
    with pytest.raises(UserError, match="at least 4 x 4; got 2 x 2"):
        convolutions(32, 2)
    features = torch.randn(2, 6, 4, 4)
    (logits,) = Heads.of("mean", [(6, 4, 4)])([features])
    torch.testing.assert_close(logits, features.mean(dim=1, keepdim=True))
    with pytest.raises(UserError, match="choose mean or convolutions"):
        Heads.of("other", [(6, 4, 4)])
