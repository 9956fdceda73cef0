import json
import logging
import math
import shutil

import pytest
import torch

from threestudio_asd.errors import ConfigKeyError, UserError
from threestudio_asd.pretrained.text_encoder import TextEncoder
from threestudio_asd.studio.models.prompt_processor import StableDiffusionPromptProcessor
from threestudio_asd.studio.registry import find
from threestudio_asd.tiny.random_sd import write_random_sd

NAMES = ["side", "front", "back", "overhead"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(folder, **cfg):
    return StableDiffusionPromptProcessor(
        {"pretrained_model_name_or_path": str(folder), "prompt": "a red mug"} | cfg
    )


def cameras(elevation, azimuth):
    elevation = torch.as_tensor(elevation, dtype=torch.float32)
    return elevation, torch.as_tensor(azimuth, dtype=torch.float32), torch.ones_like(elevation)


def test_it_is_registered():
    assert find("stable-diffusion-prompt-processor") is StableDiffusionPromptProcessor


def test_each_view_has_its_prompt(folder):
    output = make(folder)()
    assert [d.name for d in output.directions] == NAMES
    assert output.direction2idx == {name: i for i, name in enumerate(NAMES)}
    assert output.prompts_vd == [f"a red mug, {name} view" for name in NAMES]
    first = make(folder, view_dependent_prompt_front=True, prompt_side="a mug's handle")
    assert first().prompts_vd == [
        "a mug's handle",
        "front view of a red mug",
        "backside view of a red mug",
        "overhead view of a red mug",
    ]


def test_embeddings_are_the_text_encoders(folder):
    output, encoder = make(folder, negative_prompt="a cube")(), TextEncoder(folder)
    for got, prompts in (
        (output.text_embeddings, ["a red mug"]),
        (output.uncond_text_embeddings, ["a cube"]),
        (output.text_embeddings_vd, output.prompts_vd),
        (output.uncond_text_embeddings_vd, ["a cube"] * 4),
    ):
        torch.testing.assert_close(got.cpu(), encoder(prompts))


# threestudio's rules at its default thresholds: elevation, azimuth -> direction.
DIRECTIONS = [
    (0, 0, "front"),
    (0, 44.9, "front"),
    (0, -44.9, "front"),
    (0, 45, "side"),
    (0, -45, "side"),
    (0, 90, "side"),
    (0, -90, "side"),
    (0, 135, "side"),
    (0, 135.1, "back"),
    (0, -135.1, "back"),
    (0, 180, "back"),
    (0, -180, "back"),
    (0, 225, "side"),
    (0, 359, "front"),
    (0, 720, "front"),
    (60, 0, "front"),
    (60.1, 0, "overhead"),
    (89, 180, "overhead"),
    (-80, 10, "front"),
]


def test_cameras_choose_the_direction_and_later_rules_win(folder):
    output = make(folder)()
    elevation, azimuth, names = zip(*DIRECTIONS, strict=True)
    got = output.get_text_embeddings(*cameras(elevation, azimuth))
    index = torch.tensor([NAMES.index(name) for name in names])
    batch = len(DIRECTIONS)
    assert torch.equal(got[:batch], output.text_embeddings_vd[index])
    assert torch.equal(got[batch:], output.uncond_text_embeddings_vd[index])
    # Front and back overlap at wide thresholds: back comes later.
    wide = make(folder, front_threshold=120.0, back_threshold=120.0, overhead_threshold=10.0)()
    got = wide.get_text_embeddings(*cameras([0, 0, 20], [30, 100, 100]))
    assert torch.equal(got[:3], wide.text_embeddings_vd[torch.tensor([1, 2, 3])])


def test_without_view_dependence_every_camera_gets_the_prompt(folder):
    output = make(folder, negative_prompt="a cube")()
    got = output.get_text_embeddings(*cameras([0, 70, 0], [0, 0, 180]), False)
    assert torch.equal(got[:3], output.text_embeddings.expand(3, -1, -1))
    assert torch.equal(got[3:], output.uncond_text_embeddings.expand(3, -1, -1))


def perp_neg_by_hand(output, elevation, azimuth):
    """One camera, threestudio's rule in closed form: positive, two negatives, two weights."""
    side, front, back, overhead = output.text_embeddings_vd
    null = output.uncond_text_embeddings_vd[0]

    def f(coefficients, r):
        a, b, c = coefficients
        return -(a * math.exp(-b * r) + c)

    if elevation > 60:
        return overhead, (null, null), (0.0, 0.0)
    angle = abs((azimuth + 180) % 360 - 180)
    if angle < 90:
        r = 1 - angle / 90
        weights = f(output.perp_neg_f_fs, r), f(output.perp_neg_f_sf, 1 - r)
        return r * front + (1 - r) * side, (front, side), weights
    r = 2 - angle / 90
    weights = f(output.perp_neg_f_sb, r), f(output.perp_neg_f_fsb, r)
    return r * side + (1 - r) * back, (side, front), weights


def test_perp_neg_follows_the_closed_form(folder):
    output = make(folder, use_perp_neg=True, negative_prompt="a cube")()
    views = [(0, 0), (10, 30), (20, -89), (0, 90), (0, -120), (59, 180), (75, 20), (0, 300)]
    elevation, azimuth = zip(*views, strict=True)
    embeddings, weights = output.get_text_embeddings_perp_neg(*cameras(elevation, azimuth))
    b = len(views)
    assert embeddings.shape == (4 * b, 77, 24) and weights.shape == (b, 2)
    assert output.use_perp_neg and (weights <= 1e-3).all()
    for i, view in enumerate(views):
        positive, negatives, expected = perp_neg_by_hand(output, *view)
        torch.testing.assert_close(embeddings[i], positive)
        assert torch.equal(embeddings[b + i], output.uncond_text_embeddings_vd[0])
        torch.testing.assert_close(
            embeddings[2 * b + 2 * i : 2 * b + 2 * i + 2], torch.stack(negatives)
        )
        torch.testing.assert_close(weights[i], torch.tensor(expected), atol=1e-6, rtol=1e-5)
    with pytest.raises(UserError, match="use_perp_neg: false"):
        output.get_text_embeddings_perp_neg(*cameras([0], [0]), False)


def count_encodings(monkeypatch):
    calls, encode = [], TextEncoder.__call__

    def counting(self, prompts):
        calls.append(list(prompts))
        return encode(self, prompts)

    monkeypatch.setattr(TextEncoder, "__call__", counting)
    return calls


def test_a_second_run_reads_the_cache(folder, monkeypatch, workspace):
    calls = count_encodings(monkeypatch)
    first, second = make(folder)(), make(folder)()
    assert len(calls) == 1 and len(calls[0]) == len(set(calls[0])) == 6
    assert torch.equal(first.text_embeddings_vd, second.text_embeddings_vd)
    assert len(list((workspace / ".threestudio_cache/text_embeddings").glob("*.pt"))) == 6
    make(folder, prompt="a blue cube")
    assert len(calls) == 2 and "" not in calls[1]
    make(folder, use_cache=False)
    assert len(calls) == 3


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_the_cache_knows_content_not_paths(folder, tmp_path, monkeypatch, part):
    model, other = tmp_path / "model", write_random_sd(tmp_path / "other", seed=1)
    shutil.copytree(folder, model)
    old = make(model)()
    if part == "text_encoder":
        shutil.copytree(other / part, model / part, dirs_exist_ok=True)
    else:
        merges = (model / "tokenizer/merges.txt").read_text().splitlines()
        (model / "tokenizer/merges.txt").write_text("\n".join(merges[:20]))
    new = make(model)()
    assert not torch.allclose(old.text_embeddings, new.text_embeddings)
    torch.testing.assert_close(new.text_embeddings, TextEncoder(model)(["a red mug"]))
    calls = count_encodings(monkeypatch)
    shutil.copytree(model, tmp_path / "moved")
    assert torch.equal(make(tmp_path / "moved")().text_embeddings, new.text_embeddings)
    assert not calls  # the same content elsewhere


def test_a_broken_cache_file_is_computed_again(folder, workspace, caplog):
    expected = make(folder)().text_embeddings
    for file in (workspace / ".threestudio_cache/text_embeddings").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with caplog.at_level(logging.WARNING, "threestudio_asd"):
        torch.testing.assert_close(make(folder)().text_embeddings, expected)
    assert "unreadable" in caplog.text


@pytest.mark.parametrize("prompt", [{}, {"prompt": "???"}, {"prompt": " "}])
def test_a_missing_prompt_names_the_key(folder, prompt):
    with pytest.raises(UserError, match="prompt"):
        StableDiffusionPromptProcessor({"pretrained_model_name_or_path": str(folder)} | prompt)


def test_wrong_configs_are_told(folder):
    with pytest.raises(ConfigKeyError, match="did you mean prompt_side"):
        make(folder, prompt_sied="x")
    with pytest.raises(UserError, match="asd_model:tiny-shapes"):
        make("./no/such/model")
    with pytest.raises(UserError, match="write the prompt out"):
        make(folder, prompt="lib:red_mug")


def test_a_library_prompt(folder, workspace):
    (workspace / "load").mkdir()
    library = {"dreamfusion": ["a zoomed out photo of a red mug", "a blue mug", "a red cube"]}
    (workspace / "load/prompt_library.json").write_text(json.dumps(library))
    assert make(folder, prompt="lib:red_mug")().prompt == "a zoomed out photo of a red mug"
    with pytest.raises(UserError, match="not 2"):
        make(folder, prompt="lib:mug")


def word_level(folder):
    """Replace a model's tokenizer by one that knows whole words only."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[unk]", "[pad]", "a", "red", "mug", "front", "side", "back", "overhead", "view", ","]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[unk]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    shutil.rmtree(folder / "tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[unk]", pad_token="[pad]", model_max_length=6
    ).save_pretrained(folder / "tokenizer")


def test_words_outside_the_vocabulary_are_listed(folder, tmp_path, caplog):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    word_level(model)
    for _ in range(2):  # also when the embeddings come from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING, "threestudio_asd"):
            output = make(model, prompt="a Red teapot with mug")()
        assert "does not know: teapot, with." in caplog.text
        assert "longer than 6 tokens" in caplog.text
    assert output.text_embeddings.shape == (1, 6, 24)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "threestudio_asd"):
        make(folder, prompt="zyx 漢字 é!")  # a byte-level vocabulary knows everything
    assert not caplog.text


def test_a_prompt_that_is_too_long_is_told_once(folder, caplog):
    with caplog.at_level(logging.WARNING):  # of the libraries, too
        make(folder, prompt="mug " * 100, negative_prompt="cup " * 100)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "longer than 77 tokens and is cut at its end" in told and "so are 5 more" in told
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        make(folder, prompt="a red mug")
    assert not caplog.records


def masked_language_model(folder):
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*NAMES, "view", "of", "a", "this", "image", "is", "depicting", "smiling", "cat"]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=1.0,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def test_debiasing_drops_the_words_that_contradict_a_view(folder, tmp_path, monkeypatch):
    from threestudio_asd.studio.models.prompt_processor import debiasing

    model = masked_language_model(tmp_path / "bert")
    probability = debiasing.ViewProbability(str(model), NAMES)
    assert probability("a smiling cat").sum().item() == pytest.approx(1.0)

    def table(prompt):
        """A smiling cat is seldom seen from behind; without the smile every view is as likely."""
        smiling = torch.tensor([0.3, 0.4, 0.05, 0.25])
        return smiling if "smiling" in prompt else torch.full((4,), 0.25)

    prompts = debiasing.debias("a smiling cat", NAMES, table)
    assert prompts == ["a smiling cat", "a smiling cat", "a cat", "a smiling cat"]
    assert debiasing.debias("a smiling cat", NAMES, table, [0, 2]) == ["a smiling cat"] * 4
    with pytest.raises(UserError, match="from 0 to 2"):
        debiasing.debias("a smiling cat", NAMES, table, [3])

    settings = {
        "prompt": "a smiling cat",
        "use_prompt_debiasing": True,
        "pretrained_model_name_or_path_prompt_debiasing": str(model),
    }
    monkeypatch.setattr(debiasing.ViewProbability, "__call__", lambda self, prompt: table(prompt))
    assert make(folder, **settings)().prompts_vd[2] == "a cat, back view"
    with pytest.raises(UserError, match="remove prompt_back"):
        make(folder, **settings, prompt_back="a tail")
    settings["pretrained_model_name_or_path_prompt_debiasing"] = "bert-base-uncased"
    with pytest.raises(UserError, match="needs a masked language model"):
        make(folder, **settings)
