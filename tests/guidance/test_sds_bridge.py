"""threestudio-sds-bridge's guidance on the bundled host, by its formulas in plain torch."""

import logging
from dataclasses import replace

import pytest
import torch

from threestudio_asd import host
from threestudio_asd.distill import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.builtin.sds_bridge import NAME, SDSBridgeGuidance
from threestudio_asd.studio.models.prompt_processor.sds_bridge import BridgePrompts
from threestudio_asd.teachers.condition import Condition

T = torch.tensor([150, 800])


@pytest.fixture
def build(folders):
    def make(**cfg):
        return host.find(NAME)({"pretrained_model_name_or_path": str(folders["epsilon"]), **cfg})

    return make


@pytest.fixture
def bridge(prompt):
    """Both ends, of which the source has embeddings of its own."""

    def build(perp_neg=False):
        target = prompt(perp_neg)
        rows = torch.randn(5, *target.text_embeddings.shape[1:])
        source = replace(target, text_embeddings=rows[:1], text_embeddings_vd=rows[1:])
        return BridgePrompts(source, target)

    return build


@pytest.fixture
def step(build, fixed, bridge, views):
    """One step ``at`` a step of a training: what came out, the latents' gradient, and by hand eps,
    sigma, e_source, e_target, e_null of the same draw."""

    def run(at=0, view_dependent=True, **cfg):
        guidance = build(stage_two_start_step=7, view_dependent_prompting=view_dependent, **cfg)
        guidance.do_update_step(0, at)
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        fixed(guidance.asd, (T, noise))
        latents = torch.randn(2, 8, 8, 4, requires_grad=True)
        ends, batch = bridge(), views()
        out = guidance(latents, ends, **batch, rgb_as_latents=True)
        out["loss_sds"].backward()
        abar = DiscreteSchedule.scaled_linear().alphas_cumprod[T].view(-1, 1, 1, 1)
        x_t = abar.sqrt() * latents.detach().permute(0, 3, 1, 2) + (1 - abar).sqrt() * noise
        angles = [batch[key] for key in ("elevation", "azimuth", "camera_distances")]
        rows = [p.get_text_embeddings(*angles, view_dependent) for p in (ends.source, ends.target)]
        texts = (rows[0][:2], rows[1][:2], rows[1][2:])
        with torch.no_grad():
            said = [guidance.teacher.epsilon(x_t, T, Condition(text)) for text in texts]
        return out, latents.grad.permute(0, 3, 1, 2), noise, 1 - abar, said

    return run


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_it_is_registered():
    assert host.find(NAME) is SDSBridgeGuidance


@pytest.mark.parametrize("view_dependent", [True, False])
def test_stage_one_is_sds_towards_the_target_with_sigma_squared_inside(step, view_dependent):
    out, grad, noise, variance, (_, target, null) = step(
        view_dependent=view_dependent, weighting_strategy="uniform", guidance_scale=20.0
    )
    expected = variance * (null + 20.0 * (target - null) - noise)
    close(grad, expected / 2)
    close(out["grad_norm"], expected.norm())
    assert set(out) == {"loss_sds", "grad_norm", "min_step", "max_step"}


@pytest.mark.parametrize("at", [7, 8, 500])
def test_stage_two_is_the_bridge_from_its_step_on(step, at):
    _, grad, _, _, (source, target, _) = step(
        at, weighting_strategy="uniform", stage_two_weight=3.0
    )
    close(grad, 3.0 * (target - source) / 2)


def test_weights_and_weightings_of_both_stages(step):
    options = {"stage_one_weight": 0.5, "stage_two_weight": 2.0, "guidance_scale": 20.0}
    _, grad, noise, variance, (_, target, null) = step(weighting_strategy="sds", **options)
    close(grad, 0.5 * variance**2 * (null + 20.0 * (target - null) - noise) / 2)
    _, grad, _, variance, (source, target, _) = step(7, weighting_strategy="fantasia3d", **options)
    close(grad, 2.0 * (1 - variance).sqrt() * variance * (target - source) / 2)


def test_the_row_of_its_first_stage_is_sds_at_the_published_settings(make, fixed, prompt, views):
    noise, losses = torch.randn(2, 4, 8, 8), []
    latents = torch.randn(2, 8, 8, 4)
    for method in ("sds", "sds-bridge-first"):
        guidance = fixed(make(method=method, guidance_scale=100.0), (T, noise))
        out = guidance(latents, prompt(), **views(), rgb_as_latents=True)
        losses.append(out["loss_asd"].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_stage_two_may_begin_at_once_or_never(build):
    at_once = build(stage_two_start_step=0, stage_one_weight=3.0)
    assert at_once.asd.step.method.name == "sds-bridge-3d"
    never = build(stage_two_start_step=10**9)
    never.do_update_step(0, 25000)
    assert never.asd.step.method.name == "sds-bridge-first"


def test_it_has_no_parameters_for_an_optimizer_that_names_it(build):
    assert list(build().parameters()) == [] == list(build().state_dict())


def test_perp_neg_is_ignored_and_told_once(build, bridge, views, caplog):
    guidance, losses = build(), []
    with caplog.at_level(logging.INFO, logger="threestudio_asd"):
        for perp_neg in (False, True, True):
            torch.manual_seed(0)
            ends = bridge(perp_neg)
            torch.manual_seed(0)
            out = guidance(torch.randn(2, 8, 8, 4), ends, **views(), rgb_as_latents=True)
            losses.append(out["loss_sds"].item())
    assert losses[0] == losses[1] == losses[2]
    told = [r.getMessage() for r in caplog.records if "use_perp_neg" in r.getMessage()]
    assert told == [f"{NAME} ignores use_perp_neg, as threestudio-sds-bridge's does."]


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"use_img_loss": True}, "system.guidance.use_img_loss is not implemented"),
        ({"token_merging": True}, "system.guidance.token_merging is not implemented"),
        ({"stage_two_start_step": -1}, "stage_two_start_step must not be negative; got -1"),
        ({"sqrt_anneal": True, "trainer_max_steps": 0}, "trainer_max_steps must be at least 1"),
    ],
)
def test_bad_values_are_told_in_one_line(build, cfg, message):
    with pytest.raises(UserError, match=message) as caught:
        build(**cfg)
    assert "\n" not in str(caught.value)


def test_another_prompt_processor_is_told(build, prompt, views):
    with pytest.raises(UserError, match="prompt_processor_type to stable-diffusion-sds-bridge-pro"):
        build()(torch.randn(2, 8, 8, 4), prompt(), **views(), rgb_as_latents=True)
