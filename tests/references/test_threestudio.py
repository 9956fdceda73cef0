"""threestudio's own SDS and VSD, recomputed with the guidances of the bundled host."""

import json
from pathlib import Path

import check
import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file

from threestudio_asd.distill.noising import NoisyBatch
from threestudio_asd.guidance.builtin.sds import StableDiffusionGuidance
from threestudio_asd.guidance.builtin.vsd import StableDiffusionVSDGuidance
from threestudio_asd.tiny.random_sd import write_random_sd

HERE = Path(__file__).parent
NUMBERS = HERE / "threestudio_guidances.safetensors"
WEIGHTS = load_file(HERE / "asd_official_weights.safetensors")
GUIDANCES = {"sds": StableDiffusionGuidance, "vsd": StableDiffusionVSDGuidance}
with safe_open(NUMBERS, "pt") as file:
    CASES, RANGES = (json.loads(file.metadata()[key]) for key in ("cases", "ranges"))
X = load_file(NUMBERS)
# What a case says besides the guidance's own keys.
ABOUT = {
    *("kind", "batch", "perp_neg", "single_model", "critic_prediction_type", "hide_camera", "eval"),
    *("keys", "steps", "eval_keys", "bs", "noise_levels", "texts"),
}
ERROR = 1e-4


class Prompt:
    """A prompt processor's output with the embeddings that the numbers were made with."""

    def __init__(self, rows, perp_neg):
        self.rows, self.use_perp_neg = rows, perp_neg

    def get_text_embeddings(self, elevation, azimuth, distances, view_dependent):
        cond = X["embed_view" if view_dependent else "embed_plain"]
        return torch.cat([cond[self.rows], X["embed_uncond"][self.rows]])

    def get_text_embeddings_perp_neg(self, *view):
        negatives = X["embed_neg"].unflatten(0, (-1, 2))[self.rows].flatten(0, 1)
        texts = torch.cat([self.get_text_embeddings(*view), negatives])
        return texts, X["neg_weights"][self.rows]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Builds (once) a model of one of the two UNets with a prediction type."""
    root = tmp_path_factory.mktemp("threestudio")

    def build(unet, kind="epsilon"):
        path = root / f"{unet}-{kind}"
        if not path.exists():
            write_random_sd(path, kind, sample_size=16)
            check._unet(check._part(WEIGHTS, unet)).save_pretrained(path / "unet")
            # As in threestudio's run: the last step of the sampler has alphas_cumprod[0].
            scheduler = json.loads((path / "scheduler/scheduler_config.json").read_text())
            scheduler["set_alpha_to_one"] = False
            (path / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
        return str(path)

    return build


@pytest.fixture
def make(folder):
    """Builds a case's guidance with the stored LoRA and camera embedding."""

    def build(case):
        cfg = {key: value for key, value in case.items() if key not in ABOUT}
        cfg["pretrained_model_name_or_path"] = folder("teacher")
        if case["kind"] == "vsd":
            kind = case.get("critic_prediction_type", "epsilon")
            other = "teacher" if case.get("single_model") else "critic"
            cfg["pretrained_model_name_or_path_lora"] = folder(other, kind)
            cfg["lora_cfg_training"] = case.get("hide_camera", False)
        guidance = GUIDANCES[case["kind"]](cfg)
        if case["kind"] == "vsd":
            critic = guidance.asd.critic
            critic.load_state_dict(check._critic_state(WEIGHTS))
            critic.camera_dropout = 1.0
            assert (critic.net is guidance.teacher.net) == case.get("single_model", False)
        return guidance

    return build


def run(guidance, case, rows=None):
    """One step on the stored inputs: the output, the results by name, the gradient's items."""
    rows = slice(case["batch"]) if rows is None else rows
    n = len(X["t"][rows])
    own = slice(n * case.get("lora_n_timestamp_samples", 1))
    with_critic = case["kind"] == "vsd"

    def draws(latents, views, text, scale):
        x0, schedule = latents.detach(), guidance.teacher.schedule
        noisy = NoisyBatch.of(schedule, x0, X["t"][rows], X["noise"][rows])
        x0 = x0.repeat(case.get("lora_n_timestamp_samples", 1), 1, 1, 1)
        critics = NoisyBatch.of(schedule, x0, X["t_critic"][own], X["noise_critic"][own])
        return noisy, critics if with_critic else None

    guidance.asd.draws = draws
    rgb = X["latents"][rows].permute(0, 2, 3, 1).clone().requires_grad_()
    names = ("elevation", "azimuth", "camera_distances", "c2w", "mvp_mtx")
    view = {name: X[name][rows] for name in names}
    prompt = Prompt(rows, case.get("perp_neg", False))
    options = {"rgb_as_latents": True, "guidance_eval": case.get("eval", False)}
    out = guidance(rgb, prompt, **view, **options)
    loss = out[f"loss_{case['kind']}"]
    loss.backward()
    found = {"loss": loss.detach(), "grad": rgb.grad.permute(0, 3, 1, 2)}
    found["grad_norm"] = out["grad_norm"]
    if with_critic:
        out["loss_lora"].backward()
        found["loss_lora"] = out["loss_lora"].detach()
        found["lora_grad_norm"] = check._grad_norm(guidance.asd.critic.lora)
        found["camera_grad_norm"] = check._grad_norm(guidance.asd.critic.camera)
    found |= {k: v for k, v in out.get("eval", {}).items() if k.startswith("imgs_")}
    return out, found


def errors(name, found):
    """Largest error of each result, relative to the result's largest entry."""
    expected = check._part(X, name)
    assert set(found) == set(expected)
    return {
        key: ((value - expected[key]).abs().max() / expected[key].abs().max()).item()
        for key, value in found.items()
    }


@pytest.fixture
def latents_as_pictures(monkeypatch):
    """As in threestudio's run: three channels for a picture, no noise in the sampler."""
    decode = "threestudio_asd.teachers.diffusers.StableDiffusionTeacher.decode"
    monkeypatch.setattr(decode, lambda self, latents: latents[:, :3])
    noise = "diffusers.schedulers.scheduling_ddim.randn_tensor"
    monkeypatch.setattr(noise, lambda shape, **options: torch.zeros(shape))


@pytest.mark.parametrize("name", CASES)
def test_every_result_agrees_with_threestudio(name, make, latents_as_pictures):
    case = CASES[name]
    out, found = run(make(case), case)
    assert sorted(out) == case["keys"]
    assert [out["min_step"], out["max_step"]] == case["steps"]
    assert max(errors(name, found).values()) < ERROR, errors(name, found)
    if case.get("eval"):
        pictures = out["eval"]
        assert sorted(pictures) == case["eval_keys"]
        assert (pictures["bs"], pictures["texts"]) == (case["bs"], case["texts"])
        assert pictures["noise_levels"] == pytest.approx(case["noise_levels"])


@pytest.mark.parametrize("kind", GUIDANCES)
@pytest.mark.parametrize("name", RANGES)
def test_ranges_of_timesteps_are_threestudios(name, kind, make):
    guidance = make({"kind": kind, "single_model": True})
    parsed = OmegaConf.create({**guidance.cfg, **RANGES[name]["cfg"]})
    guidance = GUIDANCES[kind](parsed)
    for step, low, high in RANGES[name]["steps"]:
        guidance.do_update_step(0, step)
        timesteps = guidance.asd.timesteps
        assert (timesteps.min_step, timesteps.max_step) == (low, high), step


@pytest.mark.parametrize("use_sjc", [False, True])
def test_perp_neg_of_a_batch_is_that_of_its_items(make, use_sjc):
    """threestudio pairs the negatives of one item with another's latents."""
    case = {"kind": "sds", "batch": 3, "perp_neg": True, "use_sjc": use_sjc}
    guidance = make(case)
    _, batch = run(guidance, case)
    single = [run(guidance, case, slice(b, b + 1))[1] for b in range(3)]
    grad = torch.cat([item["grad"] for item in single]) / 3
    torch.testing.assert_close(batch["grad"], grad, rtol=1e-4, atol=1e-4 * grad.abs().max().item())
    loss = torch.stack([item["loss"] for item in single]).mean()
    torch.testing.assert_close(batch["loss"], loss, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sds_1", {"guidance_scale": 101.0}),
        ("sds_1", {"perp_neg": True}),
        ("sds_uniform_3", {"weighting_strategy": "sds"}),
        ("sjc_3", {"var_red": True}),
        ("vsd_3", {"single_model": True}),
        ("vsd_mvp_scale_3", {"camera_condition_type": "extrinsics"}),
        ("vsd_hidden_1", {"hide_camera": False}),
        ("vsd_v_3", {"critic_prediction_type": "epsilon"}),
    ],
)
def test_another_setting_disagrees(name, change, make):
    case = CASES[name] | change
    assert max(errors(name, run(make(case), case)[1]).values()) > 0.003
