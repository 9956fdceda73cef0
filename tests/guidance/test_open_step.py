"""A step with teachers, noisings and losses beyond the built-in ones, by closed forms."""

from dataclasses import replace

import pytest
import torch

from threestudio_asd.distill import (
    ASD,
    METHODS,
    SDS,
    VSD,
    CriticSettings,
    FlowSchedule,
    Method,
    NoisyBatch,
    Views,
    from_epsilon,
    optimal_critic,
    register_loss,
    register_noising,
    register_source,
)
from threestudio_asd.distill.losses import LOSSES
from threestudio_asd.distill.noising import NOISINGS
from threestudio_asd.distill.predictions import PREDICTIONS
from threestudio_asd.distill.terms import SOURCES
from threestudio_asd.errors import NotRegisteredError, UserError
from threestudio_asd.guidance.conditions import CONDITIONS, Conditions, register_condition
from threestudio_asd.guidance.step import DistillationStep
from threestudio_asd.teachers.analytic import (
    GaussianMixtureTeacher,
    GaussianTeacher,
    gaussian_epsilon,
    stating,
)

B, SHAPE = 3, (3, 4, 4)
FLOW = FlowSchedule()
STD = 0.3


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    for registry in (CONDITIONS, LOSSES, METHODS, NOISINGS, PREDICTIONS, SOURCES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture
def means():
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(4)).double()


@pytest.fixture
def latents(means):
    return (means[2] + STD * torch.randn(B, *SHAPE).double()).requires_grad_()


def mixture(means):
    return GaussianMixtureTeacher({"x": (means[0], 0.5), "y": (means[1], 0.7)}, FLOW)


def conditions(teacher, prompt="y"):
    null, cond = (teacher.embed_text([word] * B) for word in ("", prompt))
    return Conditions({"cond": cond, "null": null}, critic=cond)


VIEWS = Views(*torch.rand(3, B))


class ExactCritic(torch.nn.Module):
    """The minimiser of ASD's loss on renders x_0 ~ N(mean, STD^2 I), stating what it is told to;
    one parameter, a factor of 1, so that there is a gradient."""

    def __init__(self, teacher, cond, mean, gamma, kind):
        super().__init__()
        self.schedule, self.cond, self.mean, self.gamma = teacher.schedule, cond, mean, gamma
        self.prediction_type, self.factor = kind, torch.nn.Parameter(torch.ones(()).double())
        self.teacher = teacher

    def epsilon(self, x_t, t, condition):
        variance = torch.full((1, 1, 1, 1), STD**2).to(x_t)
        eps_bar = gaussian_epsilon(self.schedule, x_t, t, self.mean[None], variance)
        return optimal_critic(eps_bar, self.teacher.epsilon(x_t, t, self.cond), self.gamma)

    def predict(self, x_t, t, condition):
        epsilon = self.epsilon(x_t, t, condition)
        return self.factor * from_epsilon(FLOW, epsilon, x_t, t, self.prediction_type)

    def draw_camera_dropout(self):
        return False


@pytest.mark.parametrize("method", [SDS, VSD, ASD], ids=lambda row: row.name)
def test_a_flow_gives_the_gradients_of_its_epsilon_form(means, latents, method):
    """Teacher and critic state velocities here and epsilons there, on the flow's own schedule."""
    t, noise = FLOW.between(0.02, 0.98).sample(B).double(), torch.randn(B, *SHAPE).double()
    noisy = NoisyBatch.of(FLOW, latents.detach(), t, noise)
    exact, found = mixture(means), {}
    text = conditions(exact)
    gamma = -0.75 if method is ASD else 0.0
    for kind in ("epsilon", "flow_prediction"):
        critic = ExactCritic(exact, text["cond"], means[2], gamma, kind)
        teacher = stating(exact, kind)
        step = DistillationStep(method, teacher, critic, CriticSettings(gamma))
        found[kind] = step.evaluate(latents, text, noisy, 7.5)
    epsilon, flow = found.values()
    scale = epsilon.grad.abs().max()
    assert (flow.grad - epsilon.grad).abs().max() <= 1e-5 * scale
    # By hand: sigma^2 (e_null + 7.5 (e_y - e_null) - S).
    e_null, e_y = (exact.epsilon(noisy.x_t, t, text[name]) for name in ("null", "cond"))
    source = noise if method is SDS else epsilon.predictions["critic"]
    expected = FLOW.noise(t) * (e_null + 7.5 * (e_y - e_null) - source)
    assert (epsilon.grad - expected).abs().max() <= 1e-5 * scale


def test_a_noisings_extras_are_read_by_terms(means, latents):
    @register_noising("twice", asks=("null",), adds=("before",))
    def twice(x0, t, views, predict):
        noisy = NoisyBatch.of(predict.schedule, x0, t, torch.randn_like(x0))
        return replace(noisy, extras={"before": predict("null", noisy.x_t, t)})

    register_source("before", needs=("before",))(lambda predictions: predictions["before"])
    method = Method("twice", "cond", "before", None, paper="none", noising="twice")
    teacher = mixture(means)
    text, t = conditions(teacher), FLOW.between(0.2, 0.8).sample(B).double()
    step = DistillationStep(method, teacher)
    noisy = step.noisy(latents, t, VIEWS, text)
    found = step.evaluate(latents, text, noisy, 1.0)
    e_null, e_y = (teacher.epsilon(noisy.x_t, t, text[name]) for name in ("null", "cond"))
    torch.testing.assert_close(found.grad, FLOW.noise(t) * (e_y - e_null))
    assert step.asked == {"cond", "null"}


def test_a_noising_asks_for_what_it_declared(means, latents):
    @register_noising("curious")
    def curious(x0, t, views, predict):
        return NoisyBatch.of(predict.schedule, x0, t, predict("null", x0, t))

    step = DistillationStep(replace(SDS, name="curious", noising="curious"), mixture(means))
    text = conditions(step.teacher)
    with pytest.raises(UserError, match=r"asks for 'null' and declares nothing.*asks="):
        step.noisy(latents, torch.full((B,), 0.5).double(), VIEWS, text)


def test_a_prediction_of_ones_own_is_asked_for_by_its_condition(means, latents):
    teacher = mixture(means)

    @register_condition("other", "the teacher with another prompt")
    def other(prompt_utils, views):
        return teacher.embed_text(["x"] * len(views))

    register_source("other", needs=("other",))(lambda predictions: predictions["other"])
    step = DistillationStep(Method("pair", "cond", "other", None, paper="none"), teacher)

    class Prompt:
        use_perp_neg = False

        def get_text_embeddings(self, *view):
            return torch.cat([teacher.embed_text([p] * B).tokens for p in ("y", "")])

    text = Conditions.of_views(Prompt(), VIEWS, names=step.asked)
    t = torch.full((B,), 0.5).double()
    noisy = step.noisy(latents, t, VIEWS, text)
    found = step.evaluate(latents, text, noisy, 1.0)
    e_x, e_y = (teacher.epsilon(noisy.x_t, t, c) for c in (other(None, VIEWS), text["cond"]))
    torch.testing.assert_close(found.grad, FLOW.noise(t) * (e_y - e_x))


@pytest.mark.parametrize("through", [("cond", "critic"), ("cond",), ()])
def test_a_loss_is_differentiated_through_the_networks_it_names(means, latents, through):
    """Against autograd on the closed forms; the critic's weights get none of it."""

    @register_loss("apart", needs=("cond", "critic"), through=through)
    def apart(predictions, scale):
        return (predictions["cond"] - predictions["critic"]).square().sum(dim=(1, 2, 3))

    method = Method("apart", None, None, "denoise", paper="none", loss="apart")
    teacher = GaussianTeacher({"": (means[0], 1.0), "y": (means[1], 0.5)}, FLOW)
    text = conditions(teacher)
    critic = ExactCritic(teacher, text["cond"], means[2], 0.0, "epsilon")
    step = DistillationStep(method, teacher, critic)
    t = torch.full((B,), 0.5).double()
    noisy = step.noisy(latents, t, VIEWS, text)
    found = step.evaluate(latents, text, noisy, 1.0)
    assert found.grad is None and "grad_norm" not in found.losses("loss_x")
    if through:
        (grad,) = torch.autograd.grad(found.loss, latents, retain_graph=True)
    else:
        assert not found.loss.requires_grad
        return
    x_t = FLOW.add_noise(latents, noisy.noise, t)
    said = {"cond": teacher.epsilon(x_t, t, text["cond"]), "critic": critic.epsilon(x_t, t, None)}
    said = {name: e if name in through else e.detach() for name, e in said.items()}
    loss = (said["cond"] - said["critic"]).square().sum() / B
    torch.testing.assert_close(found.loss, loss)
    torch.testing.assert_close(grad, torch.autograd.grad(loss, latents)[0])
    assert critic.factor.requires_grad
    sum(found.critic_terms.values()).backward()
    assert critic.factor.grad is not None and latents.grad is None


def test_views_of_a_group_share_their_time(make, prompt, views):
    guidance = make(method="sds")
    guidance.teacher.views_at_once = 4
    t = guidance._times(8)
    assert len(t) == 8 and len(set(t.tolist())) == 2 and len(set(t[:4].tolist())) == 1
    with pytest.raises(UserError, match="a multiple of 4"):
        guidance._times(6)
    with pytest.raises(UserError, match=r"Perp-neg asks about single views.*use_perp_neg=false"):
        guidance(torch.rand(2, 8, 8, 4), prompt(True), **views(), rgb_as_latents=True)


@pytest.mark.parametrize(
    ("cfg", "error", "message"),
    [
        ({"teacher_type": "x"}, NotRegisteredError, "Unknown teacher_type 'x'.*stable-diffusion"),
        ({"critic_type": "x"}, NotRegisteredError, "Unknown critic_type 'x'; choose one of: lora"),
        ({"method": "x"}, NotRegisteredError, "Unknown method 'x'"),
        ({"method": {0: "sds", 9: "x"}}, NotRegisteredError, "Unknown method 'x'"),
        ({"method": {5: "sds"}}, UserError, "names no method for step 0"),
        ({"method": {"a": "sds"}}, UserError, "give a method's name, or names by the step"),
        ({"method": 3}, UserError, "give a method's name, or names by the step"),
    ],
)
def test_unknown_parts_are_told_before_weights_are_read(make, cfg, error, message):
    with pytest.raises(error, match=message):
        make(pretrained_model_name_or_path="/nowhere", **cfg)


def test_stages_follow_the_steps(make):
    guidance = make(method={0: "sds", 3: "asd"})
    names = []
    for step in (0, 2, 3, 99):
        guidance.do_update_step(0, step)
        names.append(guidance.step.method.name)
    assert names == ["sds", "sds", "asd", "asd"]
