"""threestudio-mvdream's guidance on the bundled host, by formulas in plain torch."""

import pytest
import torch
from view_scenes import WIDTH, V, batch, latents

from threestudio_asd import host
from threestudio_asd.distill import DiscreteSchedule
from threestudio_asd.errors import ConfigKeyError, UserError
from threestudio_asd.guidance.builtin.mvdream import MultiviewDiffusionGuidance, ours
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.tiny.random_sd import write_random_sd

NAME = "mvdream-multiview-diffusion-guidance"
SCENES = 2
T = torch.tensor([150, 800]).repeat_interleave(V)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("views"), text_width=WIDTH, views=V)


@pytest.fixture
def build(folder):
    return lambda **cfg: host.find(NAME)(
        {"pretrained_model_name_or_path": str(folder), "image_size": 64, **cfg}
    )


@pytest.fixture
def step(build, fixed, prompt):
    """One step of a config: what came out, the gradient of the latents, and by hand x_0, x_t, eps,
    e_y, e_null of the same draw."""

    def run(**cfg):
        guidance = build(**cfg)
        noise = torch.randn(SCENES * V, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        fixed(guidance.asd, (T, noise))
        rgb, text, cameras = latents(SCENES).requires_grad_(), prompt(), batch(SCENES)
        out = guidance(rgb, text, **cameras, rgb_as_latents=True)
        out["loss_sds"].backward()
        x0 = rgb.detach().permute(0, 3, 1, 2)
        alpha, sigma = alpha_sigma()
        x_t = alpha * x0 + sigma * noise
        angles = (cameras[key] for key in ("elevation", "azimuth", "camera_distances"))
        with torch.no_grad():
            e_y, e_null = (
                guidance.teacher.epsilon(x_t, T, Condition(tokens, camera=cameras["c2w"]))
                for tokens in text.get_text_embeddings(*angles, False).chunk(2)
            )
        return out, rgb.grad.permute(0, 3, 1, 2), (x0, x_t, noise, e_y, e_null)

    return run


def alpha_sigma():
    abar = DiscreteSchedule.scaled_linear().alphas_cumprod[T].view(-1, 1, 1, 1)
    return abar.sqrt(), (1 - abar).sqrt()


def assert_is(out, found, grad):
    """Loss, its gradient and the logged norm are those of ``grad``."""
    size = grad.abs().amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(len(T) * found / size, grad / size, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        out["loss_sds"], 0.5 * grad.square().sum() / len(T), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(out["grad_norm"], grad.norm(), rtol=1e-4, atol=0)


def test_it_is_registered_and_learns_nothing(build):
    assert host.find(NAME) is MultiviewDiffusionGuidance
    guidance = build()
    assert isinstance(guidance, host.BaseObject) and not isinstance(guidance, torch.nn.Module)
    assert guidance.asd.critic is None


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_the_loss_is_the_distance_to_the_rescaled_reconstruction(step, rho):
    out, found, (x0, x_t, _, e_y, e_null) = step(recon_std_rescale=rho, guidance_scale=30.0)
    assert set(out) == {"loss_sds", "grad_norm", "min_step", "max_step"}
    alpha, sigma = alpha_sigma()
    guided, plain = ((x_t - sigma * e) / alpha for e in (e_null + 30.0 * (e_y - e_null), e_y))
    deviations = [x.unflatten(0, (SCENES, V)).std(dim=(1, 2, 3, 4)) for x in (plain, guided)]
    ratio = (deviations[0] / deviations[1]).repeat_interleave(V).view(-1, 1, 1, 1)
    assert_is(out, found, x0 - (rho * ratio + 1 - rho) * guided)


def test_without_reconstruction_it_is_sds_with_the_noise_level_as_weight(step):
    out, found, (_, _, noise, e_y, e_null) = step(recon_loss=False)
    _, sigma = alpha_sigma()
    assert_is(out, found, sigma**2 * (e_null + 50.0 * (e_y - e_null) - noise))


def test_grad_clip_limits_the_gradient_of_the_latents(step):
    _, found, _ = step(grad_clip=0.1)
    assert (len(T) * found).abs().max().item() == pytest.approx(0.1, rel=1e-4)


def test_renders_of_any_size_are_encoded(build, prompt):
    rgb = torch.rand(V, 32, 32, 3, requires_grad=True)
    build()(rgb, prompt(), **batch(1))["loss_sds"].backward()
    assert rgb.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_numbers_follow_their_schedules(build):
    guidance = build(
        min_step_percent=[0, 0.98, 0.02, 8000],
        max_step_percent=[0, 0.98, 0.50, 8000],
        recon_std_rescale=[0, 0.5, 0.0, 8000],
    )
    seen = {}
    for step in (0, 4000, 8000):
        guidance.do_update_step(0, step)
        edges = guidance.asd.timesteps.min_step, guidance.asd.timesteps.max_step
        seen[step] = (*edges, guidance.asd.settings["recon_std_rescale"])
    assert seen == {0: (980, 980, 0.5), 4000: (500, 740, 0.25), 8000: (20, 500, 0.0)}


def test_without_a_folder_it_is_a_published_model():
    cfg = host.parse_structured(MultiviewDiffusionGuidance.Config, {"ckpt_path": "a.pt"})
    found = ours(cfg)
    assert found["teacher_type"] == "mvdream" and found["ckpt_path"] == "a.pt"
    assert found["teacher"] == {"model_name": "sd-v2.1-base-4view"}
    assert found["guidance_scale"] == 50.0
    assert found["view_dependent_prompting"] is False


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"n_view": 2}, "n_view is 2, and the model takes 4.*data.n_view to 4"),
        ({"image_size": 256}, "image_size is 256, and the model's pictures have 64"),
        ({"camera_condition_type": "extrinsics"}, "camera_condition_type 'extrinsics'.*'rotation'"),
        ({"pretrained_model_name_or_path": "/no/such/folder"}, "/no/such/folder"),
        ({"max_step_percent": 98}, "fractions in"),
    ],
)
def test_bad_values_are_told_in_one_line(build, cfg, message):
    with pytest.raises(UserError, match=message) as caught:
        build(**cfg)
    assert "\n" not in str(caught.value)


def test_unknown_keys_and_missing_models_are_told_before_anything_is_read(build):
    with pytest.raises(ConfigKeyError, match="recon_std_rescale"):
        build(recon_std_rescal=0.5)
    cfg = {"pretrained_model_name_or_path": "/no/such/folder"}
    with pytest.raises(UserError, match="/no/such/folder"):
        MultiviewDiffusionGuidance.require_usable(
            host.parse_structured(MultiviewDiffusionGuidance.Config, cfg)
        )


def test_a_model_of_single_views_is_another_count(build, folders):
    with pytest.raises(UserError, match="n_view is 4, and the model takes 1 view"):
        build(pretrained_model_name_or_path=str(folders["epsilon"]))


def test_unrelated_views_are_refused(build, prompt):
    cameras = {**batch(SCENES), "elevation": torch.linspace(-10, 40, SCENES * V)}
    with pytest.raises(UserError, match="unrelated"):
        build()(latents(SCENES), prompt(), **cameras, rgb_as_latents=True)
