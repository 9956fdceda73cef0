"""The embedded model is an ordinary diffusers folder that knows its world."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import AutoTokenizer

from threestudio_asd import tiny
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained.files import content_hash
from threestudio_asd.pretrained.resolve import STABLE_DIFFUSION
from threestudio_asd.tiny import model_folder
from threestudio_asd.tiny.captions import vocabulary
from threestudio_asd.tiny.judge import load_judge
from threestudio_asd.tiny.train.measure import sample_accuracy

# All of them, so that they share what is made once.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder():
    return Path(model_folder("tiny-shapes"))


@pytest.fixture(scope="module")
def pipe(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_folders_name_holds_its_contents_hash(folder):
    assert folder.name == f"tiny-shapes-{content_hash(folder, STABLE_DIFFUSION)[:8]}"


def test_the_package_stays_small(folder):
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 20e6


def test_the_tokenizer_loads_as_any_and_knows_the_worlds_words(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    known = set(tokenizer.get_vocab())
    assert set(vocabulary()) <= known
    ids = tokenizer("a red mug, side view", padding="max_length").input_ids
    assert len(ids) == tokenizer.model_max_length
    assert tokenizer.unk_token_id not in ids


@pytest.mark.slow
def test_samples_show_what_was_asked(pipe, folder):
    # The card's figure is over 480 samples; 32 keep the suite short.
    claimed = json.loads((folder / "report.json").read_text())["judge_accuracy"]
    assert sample_accuracy(pipe, 32, seed=3, batch=32) >= claimed - 0.15


def test_the_prompt_matters(pipe):
    def probability(prompt):
        images = pipe(
            [prompt] * 8,
            num_inference_steps=15,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        return load_judge().probability(images.float(), "torus", "green").mean()

    assert probability("a green torus") > probability("") + 0.3


def test_an_unknown_embedded_model_is_told():
    with pytest.raises(UserError, match=r"Unknown embedded model 'huge-shapes'.*tiny-shapes"):
        model_folder("huge-shapes")


def test_the_newest_edition_is_the_model_and_each_stays_under_its_own_name(tmp_path, monkeypatch):
    for number, name in ((2, "tiny-shapes-0a"), (10, "tiny-shapes-0b"), (1, "tiny-shapes-ff")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"edition": number}))
    (tmp_path / "judge").mkdir()
    monkeypatch.setattr(tiny, "WEIGHTS", tmp_path)
    assert model_folder("tiny-shapes") == str(tmp_path / "tiny-shapes-0b")
    assert model_folder("tiny-shapes-ff") == str(tmp_path / "tiny-shapes-ff")
    known = "tiny-shapes, tiny-shapes-0a, tiny-shapes-0b, tiny-shapes-ff"
    for name in ("tiny-shapes-00", "tiny", "judge"):
        with pytest.raises(UserError, match=f"'{name}'; choose one of: {known}."):
            model_folder(name)
