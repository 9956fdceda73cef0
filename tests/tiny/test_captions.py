import random

import pytest

from threestudio_asd.tiny.captions import (
    MAX_LENGTH,
    UNKNOWN,
    caption,
    training_caption,
    view_label,
)
from threestudio_asd.tiny.scenes import training_pairs
from threestudio_asd.tiny.train.text import new_tokenizer


@pytest.mark.parametrize(
    ("azimuth", "elevation", "label"),
    [(0, 0, "front"), (44, 0, "front"), (-44, 15, "front"), (46, 0, "side"), (-90, 0, "side"),
     (136, 0, "back"), (-136, 0, "back"), (180, 0, "back"), (316, 0, "front"), (315, 0, "side"),
     (0, 61, "overhead"), (180, 75, "overhead")],
)  # fmt: skip
def test_view_labels_follow_threestudios_rule(azimuth, elevation, label):
    assert view_label(float(azimuth), float(elevation)) == label


def test_every_training_caption_is_in_the_vocabulary_and_fits():
    tokenizer, rng = new_tokenizer(), random.Random(0)
    unknown = 0
    for i in range(3000):
        text = training_caption(rng, *training_pairs()[i % 88], "side", i % 7 == 0)
        tokens = tokenizer(text).input_ids
        assert len(tokens) <= MAX_LENGTH
        unknown += tokenizer.unk_token_id in tokens
        assert (tokenizer.unk_token_id in tokens) == (UNKNOWN in text)
    assert 0 < unknown < 300


def test_plain_captions():
    assert caption("mug", "red", "side", False) == "a red mug, side view"
    assert caption("cube", "orange", None, True) == "an orange cube, normal map"


def test_padding_is_the_end_token_and_unknown_words_are_marked():
    tokenizer = new_tokenizer()
    tokens = tokenizer("a red zebra", padding="max_length", max_length=MAX_LENGTH).input_ids
    assert len(tokens) == MAX_LENGTH
    assert tokens[3] == tokenizer.unk_token_id
    assert set(tokens[4:]) == {tokenizer.eos_token_id}
