"""CLIP R-precision, on a tiny CLIP of random weights."""

import shutil

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from threestudio_asd.compare.measure.clip import clip_r_precision, load_clip
from threestudio_asd.compare.measure.metrics import r_precision
from threestudio_asd.errors import UserError
from threestudio_asd.tiny.random_sd import write_random_sd

PROMPTS = ["a red cube", "a blue sphere", "a green cone"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clip")
    shutil.copytree(write_random_sd(root / "sd") / "tokenizer", root / "clip")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    size |= {"num_attention_heads": 4}
    config = CLIPConfig(
        text_config=size | {"vocab_size": 2000, "max_position_embeddings": 20},
        vision_config=size | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(root / "clip")
    return root / "clip"


def test_precision_is_the_share_whose_own_prompt_is_nearest():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]])
    assert r_precision(similarity, torch.tensor([0, 1, 2])) == pytest.approx(2 / 3)
    assert r_precision(similarity, torch.tensor([0, 0, 2])) == 1.0


def test_similarity_is_a_cosine_of_each_image_with_each_prompt(folder):
    clip, images = load_clip(folder), torch.rand(2, 3, 48, 48)
    found = clip.similarity(images, PROMPTS)
    assert found.shape == (2, 3) and found.abs().max() <= 1
    assert torch.allclose(clip.similarity(images.flip(0), PROMPTS[::-1]), found.flip(0, 1))
    alone = clip.similarity(images[:1], PROMPTS[1:2])
    assert torch.allclose(alone, found[:1, 1:2], atol=1e-5)


def test_precision_of_a_model(folder):
    clip, images = load_clip(folder), torch.rand(3, 3, 48, 48)
    nearest = clip.similarity(images, PROMPTS).argmax(1)
    assert clip_r_precision(clip, images, PROMPTS, nearest) == 1.0
    assert clip_r_precision(clip, images, PROMPTS, (nearest + 1) % 3) == 0.0


def test_a_model_that_cannot_be_had_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"'nobody/no-clip-at-all'.*Give a hub id"):
        load_clip("nobody/no-clip-at-all")
