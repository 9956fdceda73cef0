"""The guidance with MVDream as its teacher."""

import pytest
import torch
from mvdream_files import official_state, write_base

from threestudio_asd import host
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.asd import StableDiffusionASDGuidance
from threestudio_asd.teachers import mvdream
from threestudio_asd.teachers.condition import Condition


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mvdream")
    torch.save(official_state("sd2"), folder / "official.pt")
    base = str(write_base(folder / "base"))
    return {"pretrained_model_name_or_path": base, "ckpt_path": str(folder / "official.pt")}


@pytest.fixture
def make_four(files):
    def build(**keys):
        cfg = {"teacher_type": "mvdream", **files, **keys}
        fields = StableDiffusionASDGuidance.Config
        StableDiffusionASDGuidance.require_usable(host.parse_structured(fields, cfg))
        return StableDiffusionASDGuidance(cfg)

    return build


def four(views, scenes=2):
    """A batch of scenes, four views of each from one elevation."""
    elevation = [10.0 * (i // 4) for i in range(4 * scenes)]
    return views(elevation)


@pytest.mark.parametrize("teacher", [{}, {"model_name": "sd-v2.1-base-4view"}])
def test_a_step_asks_about_four_views_and_trains_the_critic(make_four, prompt, views, teacher):
    guidance = make_four(teacher=teacher)
    rgb = torch.randn(8, 8, 8, 4, requires_grad=True)
    out = guidance(rgb, prompt(), **four(views), rgb_as_latents=True)
    (out["loss_asd"] + out["loss_lora"]).backward()
    assert rgb.grad.isfinite().all() and rgb.grad.abs().max() > 0
    assert all(p.grad is not None for p in guidance.critic.parameters())
    with pytest.raises(UserError, match="views are unrelated"):
        guidance(rgb, prompt(), **views([1.0 * i for i in range(8)]), rgb_as_latents=True)


def test_attention_in_slices_is_still_that_over_four_views(make_four):
    torch.manual_seed(0)
    condition = Condition(torch.randn(8, 7, 24), camera=torch.randn(8, 4, 4))
    inputs = torch.randn(8, 4, 8, 8), torch.full((8,), 300), condition
    with torch.no_grad():
        whole, sliced = (
            make_four(method="sds", enable_attention_slicing=on).teacher.epsilon(*inputs)
            for on in (False, True)
        )
    torch.testing.assert_close(sliced, whole, rtol=1e-4, atol=1e-4)


def test_the_extensions_guidance_reads_mvdreams_file(files, prompt, views, monkeypatch):
    base = files["pretrained_model_name_or_path"]
    monkeypatch.setitem(mvdream.BASES, "sd-v2.1-base-4view", base)
    cls = host.find("mvdream-multiview-diffusion-guidance")
    cls.require_usable(host.parse_structured(cls.Config, {"ckpt_path": files["ckpt_path"]}))
    guidance = cls({"ckpt_path": files["ckpt_path"]})
    assert guidance.teacher.folder.samefile(base) and guidance.teacher.views_at_once == 4
    rgb = torch.rand(4, 8, 8, 4, requires_grad=True)
    guidance(rgb, prompt(), **four(views, 1), rgb_as_latents=True)["loss_sds"].backward()
    assert rgb.grad.isfinite().all() and rgb.grad.abs().max() > 0
    # The base model may be named, too.
    named = cls(files)
    assert named.teacher.folder.samefile(base) and named.teacher.views_at_once == 4
    with pytest.raises(UserError, match="no such file"):
        cls.require_usable(host.parse_structured(cls.Config, {"ckpt_path": "gone.pt"}))
