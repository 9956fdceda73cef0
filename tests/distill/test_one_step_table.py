"""The table of one-step methods, and the adversarial terms that its rows name."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from threestudio_asd.distill.one_step import (
    ONE_STEP_METHODS,
    FakeSaid,
    GeneratorSaid,
    OneStepMethod,
    OneStepSettings,
    averaged,
    bce,
    fake_losses,
    generator_losses,
    hinge,
    hinge_generator,
    r1,
)
from threestudio_asd.errors import NotRegisteredError, UserError

SHAPE = (4, 4, 5, 5)


def said(weights=None):
    """Of four pictures, three networks that do not agree."""
    x, f_real, f_fake = torch.randn(3, *SHAPE)
    if weights is not None:  # what |x - f_r| is for each item
        f_real = x + torch.tensor(weights).view(-1, 1, 1, 1)
    return GeneratorSaid(x, f_real=f_real, f_fake=f_fake, logits=(3 * torch.randn(4, 1, 2, 2),))


def split(whole, items):
    logits = tuple(x[items] for x in whole.logits)
    return GeneratorSaid(
        whole.x[items], f_real=whole.f_real[items], f_fake=whole.f_fake[items], logits=logits
    )


SIDA = ONE_STEP_METHODS.get("sida")


def sida(said, **settings):
    return generator_losses(SIDA, SIDA.with_settings(settings, "the test"), said)


def test_two_micro_batches_differ_from_one_in_the_adversarial_term_alone():
    whole = said()
    one, two = sida(whole), [sida(split(whole, items)) for items in ([0, 1], [2, 3])]
    mean = {name: (two[0][name] + two[1][name]) / 2 for name in one}
    torch.testing.assert_close(mean["score"], one["score"])
    assert abs(mean["adversarial"] - one["adversarial"]) > 1e-3 * one["adversarial"].abs()
    torch.testing.assert_close(sida(whole, average_over=2)["adversarial"], mean["adversarial"])


def test_with_equal_weights_it_does_not_matter_what_is_averaged():
    whole = said(weights=[0.5, 0.5, 0.5, 0.5])
    over = [sida(whole, average_over=n)["adversarial"] for n in (0, 1, 2)]
    torch.testing.assert_close(over[1], over[0])
    torch.testing.assert_close(over[2], over[0])
    other = said(weights=[0.1, 0.5, 0.5, 2.0])
    by_batch, by_item = (sida(other, average_over=n)["adversarial"] for n in (0, 1))
    assert abs(by_batch - by_item) > 1e-3 * by_batch


def test_groups_are_averaged_in_their_order():
    items = torch.tensor([1.0, 3.0, 5.0, 9.0])
    assert averaged(items, 2).tolist() == [2.0, 2.0, 7.0, 7.0]
    assert averaged(items, 0).tolist() == [4.5] * 4
    with pytest.raises(UserError, match=r"batch of 4 .* groups of 3"):
        averaged(items, 3)


def test_cross_entropies_are_those_of_the_logits():
    logits = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    p = logits.sigmoid()
    torch.testing.assert_close(bce(logits, True), -p.log().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(bce(logits, False), -(1 - p).log().mean(dim=(1, 2, 3)))


def test_clamped_logits_have_no_gradient():
    logits = torch.tensor([-12.0, -3.0, 12.0], requires_grad=True)
    bce(logits, True, limit=10.0).sum().backward()
    assert logits.grad[0] == 0.0 and logits.grad[2] == 0.0 and logits.grad[1] < -0.9


def test_hinges():
    logits = torch.tensor([-2.0, 0.0, 3.0])
    assert hinge(logits, True).tolist() == [3.0, 1.0, 0.0]
    assert hinge(logits, False).tolist() == [0.0, 1.0, 4.0]
    assert hinge_generator(logits).tolist() == [2.0, 0.0, -3.0]


def test_r1_of_a_linear_critic_is_the_norm_of_its_weight():
    """And its gradient twice the weight: it can be differentiated once more."""
    weight = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    features = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    found = r1(features, (features * weight).sum(dim=(1, 2, 3)))
    torch.testing.assert_close(found, weight.square().sum().expand(5))
    found.mean().backward()
    torch.testing.assert_close(weight.grad, 2 * weight)


def test_r1_counts_in_the_discriminators_loss_of_add():
    row = ONE_STEP_METHODS.get("add")
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    head = nn.Conv2d(3, 1, 4)
    x = torch.zeros(2, 4, 5, 5)
    judged = FakeSaid(x, logits_fake=(head(features.detach()),), logits_real=(head(features),))
    judged = replace(judged, real_features=(features,))
    losses = fake_losses(row, row.with_settings({"r1_weight": 0.5}, "the test"), judged)
    assert set(losses) == {"discriminator", "r1"}
    torch.testing.assert_close(losses["r1"], 0.5 * head.weight.square().sum())


def test_without_distance_adds_generator_sees_the_discriminator_alone():
    row, x = ONE_STEP_METHODS.get("add"), torch.randn(*SHAPE, requires_grad=True)
    logits = (x.mean(dim=(1, 2, 3)),)
    levels = torch.ones(4, 1, 1, 1), torch.ones(4, 1, 1, 1)
    whole = GeneratorSaid(x, *levels, f_real=torch.randn(SHAPE), logits=logits)
    none = row.with_settings({"score_weight": 0.0}, "the test")
    total = sum(generator_losses(row, none, whole).values())
    gan = generator_losses(ONE_STEP_METHODS.get("gan"), none, whole)
    assert set(gan) == {"adversarial"}
    torch.testing.assert_close(total, gan["adversarial"])


def test_rows():
    rows = {name: ONE_STEP_METHODS.get(name) for name in ONE_STEP_METHODS}
    methods = "add distillation dmd dmd2 gan sid sid-lsg sid2a sida"
    assert set(rows) == set(methods.split())
    assert {name for name, row in rows.items() if row.needs_reals} == {
        *("add", "dmd2", "gan", "sid2a", "sida")
    }
    assert {name for name, row in rows.items() if row.fake is None} == {
        *("add", "distillation", "gan")
    }
    assert [name for name, row in rows.items() if row.from_generator] == ["sid2a"]
    guided = rows["sid-lsg"].with_settings({}, "the test")
    assert guided.guides_fake and guided.teacher_scale == guided.fake_scale
    plain = {"fake_train_scale": 1.0, "fake_scale": 1.0, "teacher_scale": 1.0}
    assert rows["sid-lsg"].with_settings(plain, "the test") == rows["sid"].with_settings({}, "")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"score": None, "adversary": None, "fake": None}, "a score term, an adversary or both"),
        ({"fake": None}, "both read and trained"),
        ({"score": "add"}, "shares the noise"),
        ({"score": "add", "adversary": None}, "both read and trained"),
        ({"settings": {"alfa": 1.0}}, "did you mean alpha"),
        ({"score": None, "adversary": "features", "fake": None}, "needs a score term"),
    ],
)
def test_a_row_that_cannot_work_is_told_when_it_is_made(change, told):
    settings = {"adversarial_per_error": True}
    with pytest.raises(UserError, match=told):
        OneStepMethod(
            **{
                **{"name": "x", "score": "sid", "adversary": "encoder", "fake": "epsilon"},
                **{"paper": "none", "settings": settings, **change},
            }
        )


@pytest.mark.parametrize("column", ["score", "adversary", "fake"])
def test_a_name_that_nobody_registered(column):
    with pytest.raises(NotRegisteredError, match="choose one of"):
        replace(SIDA, **{column: "other"})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch": 0}, "batch must be positive"),
        ({"lr_fake": 0.0}, "lr_fake must be positive"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"average_over": 3}, "no divisor"),
        ({"generator_from": -1}, "must not be negative"),
        ({"logit_limit": 0.0}, "positive or None"),
        ({"fake_range": (0.5, 0.2)}, "two rising fractions"),
    ],
)
def test_numbers_out_of_range(wrong, told):
    with pytest.raises(UserError, match=told):
        OneStepSettings(**wrong)


def test_what_a_config_says_takes_the_type_of_the_default():
    said = {"betas": [0, 0.9], "alpha": 1, "logit_limit": None}
    read = SIDA.with_settings(said, "the test")
    assert read.betas == (0.0, 0.9) and read.logit_limit is None
    assert isinstance(read.alpha, float) and isinstance(read.betas[0], float)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch": "many"}, "batch must be a whole number; got 'many'"),
        ({"batch": 2.5}, "batch must be a whole number; got 2.5"),
        ({"ema": None}, "ema must be a number"),
        ({"betas": [0.5]}, "betas must be two numbers"),
        ({"betas": [0.5, "x"]}, "betas must be a number; got 'x'"),
        ({"adversarial_per_error": 1}, "must be true or false"),
        ({"distance": 2}, "must be a name"),
    ],
)
def test_values_of_another_kind(wrong, told):
    with pytest.raises(UserError, match=told):
        SIDA.with_settings(wrong, "the test")


def test_an_unknown_distance_is_answered_with_the_known_ones():
    with pytest.raises(NotRegisteredError, match="exponential, nfsd, sds"):
        ONE_STEP_METHODS.get("add").with_settings({"distance": "other"}, "the test")
