"""Words of a prompt: unknown ones, too many, and those that contradict a view."""

import logging
import shutil

import pytest
import torch
from prompt_processors import NAMES, make

from threestudio_asd.errors import UserError

pytestmark = pytest.mark.usefixtures("workspace")


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


def test_words_outside_the_vocabulary_are_listed(random_sd, tmp_path, caplog):
    model = tmp_path / "model"
    shutil.copytree(random_sd, model)
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
        make(random_sd, prompt="zyx 漢字 é!")  # a byte-level vocabulary knows everything
    assert not caplog.text


def test_a_prompt_that_is_too_long_is_told_once(random_sd, caplog):
    with caplog.at_level(logging.WARNING):  # of the libraries, too
        make(random_sd, prompt="mug " * 100, negative_prompt="cup " * 100)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "longer than 77 tokens and is cut at its end" in told and "so are 5 more" in told
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        make(random_sd, prompt="a red mug")
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


def test_debiasing_drops_the_words_that_contradict_a_view(random_sd, tmp_path, monkeypatch):
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
    assert make(random_sd, **settings)().prompts_vd[2] == "a cat, back view"
    with pytest.raises(UserError, match="remove prompt_back"):
        make(random_sd, **settings, prompt_back="a tail")
    settings["pretrained_model_name_or_path_prompt_debiasing"] = "bert-base-uncased"
    with pytest.raises(UserError, match="needs a masked language model"):
        make(random_sd, **settings)
