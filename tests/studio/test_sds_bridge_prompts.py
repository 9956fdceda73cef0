"""Both prompts of threestudio-sds-bridge's processor."""

import pytest
import torch

from threestudio_asd.errors import UserError
from threestudio_asd.studio.registry import find

NAME = "stable-diffusion-sds-bridge-prompt-processor"


@pytest.fixture
def build(random_sd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(name=NAME, **cfg):
        model = {"pretrained_model_name_or_path": str(random_sd), "use_cache": False}
        return find(name)({"prompt": "a red mug", **model, **cfg})

    return make


def test_each_end_is_worded_and_embedded_as_a_prompt_of_its_own(build):
    ends = build(use_modifier_only=False, src_modifier="blurry", tgt_modifier="sharp")()
    for end, modifier in ((ends.source, "blurry"), (ends.target, "sharp")):
        plain = build("stable-diffusion-prompt-processor", prompt=f"a red mug, {modifier}")()
        assert end.prompts_vd == plain.prompts_vd
        assert end.prompts_vd[1] == f"a red mug, {modifier}, front view"
        for field in ("text_embeddings", "text_embeddings_vd", "uncond_text_embeddings_vd"):
            assert torch.equal(getattr(end, field), getattr(plain, field))


def test_the_published_words(build):
    faults = (
        "oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, "
        "malformed"
    )
    ends = build()()
    assert (ends.source.prompt, ends.target.prompt) == (faults, "a red mug, .")
    assert build(use_modifier_only=False)().source.prompt == f"a red mug, {faults}"


def test_views_and_negative_prompts_of_ones_own(build):
    ends = build(
        src_prompt_back="a smooth back",
        tgt_prompt_back="a handle",
        negative_prompt="ugly",
        view_dependent_prompt_front=True,
        front_threshold=30.0,
    )()
    assert ends.source.prompts_vd[2] == "a smooth back" and ends.target.prompts_vd[2] == "a handle"
    assert ends.target.prompts_vd[1] == "front view of a red mug, ."
    assert torch.equal(ends.source.uncond_text_embeddings, ends.target.uncond_text_embeddings)
    # An azimuth of 40 degrees is at the side.
    angles = (torch.zeros(1), torch.tensor([40.0]), torch.ones(1))
    rows = ends.target.get_text_embeddings(*angles)
    assert torch.equal(rows[0], ends.target.text_embeddings_vd[0])


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"prompt": " "}, "There is no prompt"),
        ({"prompt_front": "a mug"}, "prompt_front names neither end .* src_prompt_front"),
        ({"texture_inversion_embedding": "a.pt"}, "texture_inversion_embedding is not implemented"),
        ({"use_prompt_debiasing": True}, "use_prompt_debiasing does not go with SDS-Bridge"),
        ({"tgt_modifyer": "x"}, "did you mean tgt_modifier"),
    ],
)
def test_mistakes_are_told_in_one_line(build, cfg, message):
    with pytest.raises(UserError, match=message) as caught:
        build(**cfg)
    assert "\n" not in str(caught.value)
