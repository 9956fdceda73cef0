"""The registered guidance as a system uses it."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import TimestepEmbedding
from safetensors.torch import save_file

from threestudio_asd import host
from threestudio_asd.distill import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.asd import StableDiffusionASDGuidance

SCHEDULE = DiscreteSchedule.scaled_linear()


def latents_like_rgb(n=2):
    return torch.randn(n, 8, 8, 4, generator=torch.Generator().manual_seed(5))


def test_it_is_registered():
    assert host.find("stable-diffusion-asd-guidance") is StableDiffusionASDGuidance


def test_asd_at_gamma_zero_is_vsd_written_out(make, fixed, prompt, views, folders):
    """Losses and gradients against plain calls of a second copy of the UNet."""
    guidance = make(gamma=0.0, lora_cfg_training=False)
    draw = torch.tensor([100, 800]), torch.randn(2, 4, 8, 8)
    rgb, batch, text = latents_like_rgb().requires_grad_(), views(), prompt()
    out = fixed(guidance, draw)(rgb, text, **batch, rgb_as_latents=True)
    (out["loss_asd"] + out["loss_lora"]).backward()

    latents = rgb.detach().permute(0, 3, 1, 2).clone().requires_grad_()
    state = {n: p.detach().clone().requires_grad_() for n, p in guidance.critic.named_parameters()}
    unet = UNet2DConditionModel.from_pretrained(folders["epsilon"], subfolder="unet")
    unet.requires_grad_(False)
    grad, loss_lora = vsd_by_hand(unet, state, latents, text, batch, *draw)
    latents.backward(gradient=grad / 2)
    loss_lora.backward()

    torch.testing.assert_close(out["loss_asd"], 0.5 * grad.square().sum() / 2)
    torch.testing.assert_close(out["loss_lora"], loss_lora)
    torch.testing.assert_close(rgb.grad.permute(0, 3, 1, 2), latents.grad, rtol=1e-4, atol=1e-5)
    for name, parameter in guidance.critic.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-4, atol=1e-6)


def vsd_by_hand(unet, state, latents, text, batch, t, noise):
    """w (e_null + 7.5 (e_y - e_null) - e_phi) and mean |e_phi - eps|^2."""
    view = (batch["elevation"], batch["azimuth"], batch["camera_distances"])
    cond, null = text.get_text_embeddings(*view).chunk(2)
    plain, _ = text.get_text_embeddings(*view, False).chunk(2)
    abar = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
    x_t = (abar.sqrt() * latents + (1 - abar).sqrt() * noise).detach()
    with torch.no_grad():
        e_y, e_null = (unet(x_t, t, text).sample for text in (cond, null))
    e_phi = critic_by_hand(unet, state, x_t, t, plain, batch["c2w"].flatten(1))
    grad = (1 - abar) * (e_null + 7.5 * (e_y - e_null) - e_phi.detach())
    return grad, (e_phi - noise).square().mean()


def critic_by_hand(unet, state, x_t, t, text, camera):
    """The UNet with W + B A for W, and the camera's embedding added to the time's."""
    unet.class_embedding = TimestepEmbedding(16, unet.time_embedding.linear_2.out_features)
    weights = dict(unet.named_parameters())
    for name, value in state.items():
        if name.startswith("camera.mlp."):
            weights["class_embedding." + name.removeprefix("camera.mlp.")] = value
        elif name.endswith(".up.weight"):
            layer = name.removeprefix("lora.").removesuffix(".up.weight")
            change = value @ state[name.replace(".up.", ".down.")]
            weights[layer + ".weight"] = weights[layer + ".weight"] + change
    args = (x_t, t, text)
    return torch.func.functional_call(unet, weights, args, {"class_labels": camera}).sample


def test_the_gradient_reaches_the_render_through_the_autoencoder(make, prompt, views):
    guidance = make()
    rgb = torch.rand(2, 32, 32, 3, requires_grad=True)  # resized to the model's 64 x 64
    out = guidance(rgb, prompt(), **views())
    out["loss_asd"].backward()
    assert rgb.grad.abs().max() > 0
    assert all(p.grad is None for p in guidance.parameters())
    assert all(p.grad is None for p in guidance.teacher.vae.parameters())
    adapters = {id(p) for p in guidance.critic.parameters()}
    assert all(p.grad is None for p in guidance.teacher.unet.parameters() if id(p) not in adapters)


def test_the_critic_learns_from_its_own_loss_only(make, prompt, views):
    guidance = make()
    guidance.critic.camera_dropout = 0.0
    rgb = torch.rand(2, 64, 64, 3, requires_grad=True)
    guidance(rgb, prompt(), **views())["loss_lora"].backward()
    assert rgb.grad is None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in guidance.parameters())
    teacher = guidance.teacher.unet
    adapters = {id(p) for p in guidance.critic.parameters()}
    assert all(p.grad is None for p in teacher.parameters() if id(p) not in adapters)


def test_parameters_and_state_are_the_critics(make):
    guidance = make()
    assert len(list(guidance.parameters())) == len(list(guidance.critic.parameters())) > 0
    assert all(
        name.startswith(("critic.lora.", "critic.camera.")) for name in guidance.state_dict()
    )
    assert list(make(method="sds").parameters()) == []


def test_scalars_for_the_log(make, prompt, views):
    guidance = make()
    rgb = latents_like_rgb()
    out = guidance(rgb, prompt(), **views(), rgb_as_latents=True)
    assert set(out) == {
        *("loss_asd", "loss_lora", "grad_norm", "min_step", "max_step"),
        *("critic_denoise", "critic_repel"),
    }
    assert (out["min_step"], out["max_step"]) == (20, 980)
    torch.testing.assert_close(out["critic_denoise"] + out["critic_repel"], out["loss_lora"])
    assert out["critic_denoise"] > 0 > out["critic_repel"]
    assert not out["critic_repel"].requires_grad
    torch.testing.assert_close(out["grad_norm"] ** 2 / 2 / 2, out["loss_asd"])
    sds = make(method="sds")(rgb, prompt(), **views(), rgb_as_latents=True)
    assert set(sds) == {"loss_asd", "grad_norm", "min_step", "max_step"}


@pytest.mark.parametrize(("max_items", "shown"), [(1, 1), (4, 2), (-1, 2)])
def test_pictures_of_a_step(make, prompt, views, max_items, shown):
    guidance = make(max_items_eval=max_items)
    out = guidance(torch.rand(2, 64, 64, 3), prompt(True), **views(), guidance_eval=True)["eval"]
    images = {name: out[name] for name in out if name != "texts"}
    assert set(images) == {"imgs_noisy", "imgs_1step", "imgs_1orig", "imgs_1orig_lora", "grad"}
    for image in images.values():
        assert image.shape == (shown, 64, 64, 3) and not image.requires_grad
        assert image.min() >= 0 and image.max() <= 1
    assert len(out["texts"]) == shown
    assert out["texts"][0].endswith("e10.0\na-70.0\nc1.50")
    sds = make(method="sds")
    assert (
        "imgs_1orig_lora"
        not in sds(torch.rand(2, 64, 64, 3), prompt(), **views(), guidance_eval=True)["eval"]
    )


def test_gradients_are_clipped(make, prompt, views):
    guidance = make(grad_clip=0.01)
    rgb = latents_like_rgb().requires_grad_()
    guidance(rgb, prompt(), **views(), rgb_as_latents=True)["loss_asd"].backward()
    assert rgb.grad.abs().max().item() == pytest.approx(0.01 / 2, rel=1e-4)


@pytest.mark.parametrize("kind", ["extrinsics", "mvp"])
def test_the_critic_sees_the_camera_it_is_told_of(make, fixed, prompt, views, kind):
    guidance = make(camera_condition_type=kind, lora_cfg_training=False)
    used, other = ("c2w", "mvp_mtx") if kind == "extrinsics" else ("mvp_mtx", "c2w")
    draw = torch.tensor([100, 800]), torch.randn(2, 4, 8, 8)

    def loss(**changes):
        out = fixed(guidance, draw)(
            latents_like_rgb(), prompt(), **(views() | changes), rgb_as_latents=True
        )
        return out["loss_lora"].item()

    assert loss(**{other: None}) == loss()
    assert loss(**{used: torch.zeros(2, 4, 4)}) != loss()
    with pytest.raises(UserError, match=f"'{kind}' needs a batch with cameras"):
        loss(**{used: None})
    assert make(method="sds")(
        latents_like_rgb(), prompt(), **(views() | {used: None}), rgb_as_latents=True
    )


def test_camera_dropout_is_a_choice(make):
    for training, probability in ((True, 0.0), (True, 1.0), (False, 1.0)):
        guidance = make(lora_cfg_training=training)
        assert guidance.critic.camera_dropout == 0.1
        guidance.critic.camera_dropout = probability
        assert guidance._hide_camera() == (training and probability == 1.0)


def test_latents_of_another_size_are_resized_and_channels_are_checked(make, prompt, views):
    guidance = make()
    assert "loss_asd" in guidance(
        torch.rand(2, 16, 16, 4), prompt(), **views(), rgb_as_latents=True
    )
    with pytest.raises(UserError, match="latents have 4 channels; got 3"):
        guidance(torch.rand(2, 8, 8, 3), prompt(), **views(), rgb_as_latents=True)


def test_view_dependent_prompting_concerns_the_teacher(make, fixed, prompt, views):
    draw = torch.tensor([100, 800]), torch.randn(2, 4, 8, 8)
    results = []
    for view_dependent in (True, False):
        guidance = make(gamma=0.0, view_dependent_prompting=view_dependent, lora_cfg_training=False)
        out = fixed(guidance, draw)(latents_like_rgb(), prompt(), **views(), rgb_as_latents=True)
        results.append(out)
    assert results[0]["loss_asd"] != results[1]["loss_asd"]
    assert torch.equal(results[0]["loss_lora"], results[1]["loss_lora"])


def test_memory_options_change_no_result(make, fixed, prompt, views):
    draw = torch.tensor([100, 800]), torch.randn(2, 4, 8, 8)
    losses = []
    for options in (
        {},
        {"enable_channels_last_format": True, "enable_memory_efficient_attention": True},
        {"enable_attention_slicing": True},
    ):
        guidance = make(lora_cfg_training=False, **options)
        out = fixed(guidance, draw)(latents_like_rgb(), prompt(), **views(), rgb_as_latents=True)
        losses.append(torch.stack([out["loss_asd"], out["loss_lora"]]))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-4, atol=1e-5)


def test_attention_is_sdpa_in_teacher_and_critic(make, prompt, views, monkeypatch):
    calls, sdpa = [], F.scaled_dot_product_attention

    def counting(*args, **kwargs):
        calls.append(torch.is_grad_enabled())
        return sdpa(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    guidance = make()
    attentions = len(guidance.teacher.unet.attn_processors)
    guidance(latents_like_rgb(), prompt(), **views(), rgb_as_latents=True)
    assert (calls.count(False), calls.count(True)) == (attentions, attentions)


def test_two_names_of_one_model_are_one_unet(make, folders, tmp_path):
    link = tmp_path / "mirror"
    link.symlink_to(folders["epsilon"])
    guidance = make(pretrained_model_name_or_path_lora=str(link))
    assert guidance.critic.net is guidance.teacher.net
    guidance = make(pretrained_model_name_or_path_lora=str(folders["v_prediction"]))
    assert guidance.critic.net is not guidance.teacher.net


def test_the_users_weights_reach_teacher_and_critic(make, folders, tmp_path):
    """Another UNet by ckpt_path, changed by LoRA_path; the shared UNet holds both."""
    unet = UNet2DConditionModel.from_pretrained(folders["v_prediction"], subfolder="unet")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    lora = {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}
    save_file(lora, tmp_path / "lora.safetensors")
    guidance = make(
        ckpt_path=str(folders["v_prediction"] / "unet"),
        LoRA_path=str(tmp_path / "lora.safetensors"),
    )
    expected = unet.state_dict()
    expected[f"{layer}.weight"] += up @ down
    got = guidance.teacher.unet.state_dict()
    for name, value in expected.items():
        if name not in got:  # the critic's adapter wraps the layer
            layer_name, _, kind = name.rpartition(".")
            name = f"{layer_name}.base_layer.{kind}"
        torch.testing.assert_close(got[name], value)
    assert guidance.critic.net is guidance.teacher.net


def test_images_are_resized_to_the_models_own_size(make):
    guidance = make()
    guidance.teacher.posterior = "mean"
    images = torch.rand(1, 3, 32, 48)
    resized = F.interpolate(images, (64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(guidance.encode_images(images), guidance.teacher.encode(resized))
    assert guidance.decode_latents(torch.randn(1, 4, 8, 8)).shape == (1, 3, 64, 64)
