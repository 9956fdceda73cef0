"""Prompts of a method beside the user's: their words, their views, and what is told."""

import pytest
import torch

from threestudio_asd.distill import METHODS, Method, register_prediction, register_source
from threestudio_asd.distill.noising import Views
from threestudio_asd.distill.predictions import PREDICTIONS
from threestudio_asd.distill.terms import SOURCES
from threestudio_asd.errors import UserError
from threestudio_asd.guidance.inputs.texts import Texts, wordings
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.plain import PlainTeacher


class Reading(PlainTeacher):
    """Writes down what it is to embed: the number of a text is its embedding."""

    def __init__(self):
        super().__init__(lambda x, t, c: x)
        self.read = []

    def embed_text(self, prompts):
        self.read += prompts
        return Condition(torch.tensor([[[float(self.read.index(p))]] for p in prompts]))


@pytest.fixture
def four_views():
    """Front, side, back, overhead."""
    elevation, azimuth = torch.tensor([0.0, 0, 0, 80]), torch.tensor([0.0, 90, 180, 0])
    return Views(elevation, azimuth, torch.ones(4))


def test_a_text_with_the_prompt_names_the_view_and_is_embedded_once(prompt, four_views):
    teacher = Reading()
    texts = Texts(teacher, {"empty": "", "mine": "{prompt}, {on} Mars", "other": "bad"})
    names = ("null", "mine", "empty")
    found = texts.conditions(names, prompt(), four_views, view_dependent=True)
    assert teacher.read == [
        *(f"a mug, {{on}} Mars, {view} view" for view in ("side", "front", "back", "overhead")),
        "",
    ]
    assert found["mine"].tokens.flatten().tolist() == [1, 0, 2, 3]
    assert found["empty"].tokens.flatten().tolist() == [4] * 4
    assert set(found) == {"mine", "empty"}
    texts.conditions(names, prompt(), four_views, view_dependent=True)
    assert len(teacher.read) == 5
    texts.conditions(names, prompt(), four_views, view_dependent=False)
    assert teacher.read[5:] == ["a mug, {on} Mars"]


def test_words_of_a_config_replace_the_defaults():
    words = wordings({"bridge_target": "{prompt}, ."}, ("bridge_target",))
    assert words["bridge_target"] == "{prompt}, ."
    assert "oversaturated" in words["bridge_source"] and words["empty"] == ""
    assert "null" not in words and "cond" not in words


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"texts": {"bridge_sauce": "x"}}, "has 'bridge_sauce'.*did you mean bridge_source"),
        ({"texts": {"cond": "x"}}, "system.guidance.texts has 'cond'"),
        ({"method": "dds"}, r"needs system.guidance.texts.reference_cond \("),
        ({"method": {0: "sds", 5: "dds"}}, "needs system.guidance.texts.reference_cond"),
    ],
)
def test_bad_texts_are_told_before_weights_are_read(make, cfg, message):
    with pytest.raises(UserError, match=message):
        make(pretrained_model_name_or_path="/nowhere", **cfg)


def test_a_teacher_without_a_text_encoder_says_so(prompt, four_views):
    texts = Texts(PlainTeacher(lambda x, t, c: x), {"empty": ""})
    with pytest.raises(UserError, match="prompts of its own, and this teacher embeds none"):
        texts.conditions(("empty",), prompt(), four_views, True)


def test_a_prediction_of_ones_own_with_its_words(make, prompt, views, monkeypatch):
    """On a model with a text encoder: T - S of a prompt that is the user's again is 0."""
    for registry in (PREDICTIONS, SOURCES, METHODS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    register_prediction("again", "the user's prompt", words="{prompt}")
    register_source("again", needs=("again",))(lambda said: said["again"])
    METHODS.add("pair", Method("pair", "cond", "again", None, paper="none"))
    guidance, text = make(method="pair"), prompt()
    batch, image = views(), torch.rand(2, 64, 64, 3)
    assert guidance(image, text, **batch)["grad_norm"] > 0
    # The prompts' embeddings by the same encoder.
    words = [f"a mug, {d.name} view" for d in text.directions]
    text.text_embeddings_vd = guidance.teacher.embed_text(words).tokens
    assert guidance(image, text, **batch)["grad_norm"] < 1e-5


@pytest.fixture
def said(caplog):
    """The lines of the log that hold some words."""
    caplog.set_level("INFO", logger="threestudio_asd")
    return lambda words: [r.message for r in caplog.records if words in r.message]


def test_csd_without_a_negative_prompt_takes_the_published_one(make, prompt, views, said):
    guidance, seen = make(method="csd"), Views.of(views())
    embed = guidance.teacher.embed_text
    users = prompt()
    found = guidance.conditions(users, seen)["null"].tokens
    assert found.equal(users.uncond_text_embeddings_vd[:2]) and not said("negative prompt")
    published = embed([METHODS.get("csd").negative_prompt] * 2).tokens
    for number, perp_neg in enumerate((False, True), 1):
        text = prompt(perp_neg)
        text.uncond_text_embeddings = embed([""]).tokens
        text.uncond_text_embeddings_vd = embed([""] * 4).tokens
        for _ in range(2):
            assert guidance.conditions(text, seen)["null"].tokens.equal(published)
        lines = said("negative prompt")
        assert len(lines) == number  # once for each prompt
        assert "'oversaturated color, ugly, tiling, low quality, noisy'" in lines[0]
    plain = make(method="sds").conditions(text, seen)["null"].tokens
    assert plain.equal(text.uncond_text_embeddings_vd[:2])


@pytest.mark.parametrize(
    ("method", "names"),
    [("nfsd", ["negative"]), ("sds-bridge", ["bridge_source", "bridge_target"])],
)
def test_published_words_are_told_unless_a_config_has_others(make, said, method, names):
    make(method=method)
    lines = said("asked for with the published words")
    assert [line.split("'")[1] for line in lines] == names
    assert all(f"texts.{n}." in line for n, line in zip(names, lines, strict=True))
    make(method=method, texts=dict.fromkeys(names, "a bad picture"))
    assert len(said("published words")) == len(names)


def test_a_camera_of_the_row_is_refused_where_there_is_none(make):
    with pytest.raises(UserError, match=r"'esd' guides .* by 0.5, and .*guidance_scale_lora=1"):
        make(method="esd", camera_condition_type="none")
    assert make(method="esd").step.critic_scale is None
    assert make(method="esd", guidance_scale_lora=1.0).step.critic_scale == 1.0


@pytest.mark.parametrize(
    ("method", "weighting", "expected"),
    [("sdi", None, "asd"), ("sds", None, "sds"), ("dds", None, "uniform"), ("sdi", "sds", "sds")],
)
def test_a_row_weights_unless_a_config_does(make, method, weighting, expected):
    texts = {"reference_cond": "a cup"}
    step = make(method=method, weighting_strategy=weighting, texts=texts).step
    assert (step.weighting or step.method.weighting) == expected


def test_schedules_of_a_row_are_followed(make):
    guidance = make(method="csd")
    names, seen = ("negative_scale", "null_scale"), []
    for step in (0, 2500, 10000):
        guidance.do_update_step(0, step)
        seen.append(tuple(guidance.settings[name] for name in names))
    assert seen == [(-1.0, 0.0), (-0.875, -0.125), (-0.5, -0.5)]
    assert guidance.step.defaults["negative_scale"] == -1.0
