"""The prompt processor: a prompt and embeddings for every view, perp-neg, wrong configs."""

import json
import math

import pytest
import torch
from prompt_processors import NAMES, make

from threestudio_asd.errors import ConfigKeyError, UserError
from threestudio_asd.pretrained.text_encoder import TextEncoder
from threestudio_asd.studio.models.prompt_processor import StableDiffusionPromptProcessor
from threestudio_asd.studio.registry import find

pytestmark = pytest.mark.usefixtures("workspace")


def cameras(elevation, azimuth):
    elevation = torch.as_tensor(elevation, dtype=torch.float32)
    return elevation, torch.as_tensor(azimuth, dtype=torch.float32), torch.ones_like(elevation)


def test_it_is_registered():
    assert find("stable-diffusion-prompt-processor") is StableDiffusionPromptProcessor


def test_each_view_has_its_prompt(random_sd):
    output = make(random_sd)()
    assert [d.name for d in output.directions] == NAMES
    assert output.direction2idx == {name: i for i, name in enumerate(NAMES)}
    assert output.prompts_vd == [f"a red mug, {name} view" for name in NAMES]
    first = make(random_sd, view_dependent_prompt_front=True, prompt_side="a mug's handle")
    assert first().prompts_vd == [
        "a mug's handle",
        "front view of a red mug",
        "backside view of a red mug",
        "overhead view of a red mug",
    ]


def test_embeddings_are_the_text_encoders(random_sd):
    output, encoder = make(random_sd, negative_prompt="a cube")(), TextEncoder(random_sd)
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


def test_cameras_choose_the_direction_and_later_rules_win(random_sd):
    output = make(random_sd)()
    elevation, azimuth, names = zip(*DIRECTIONS, strict=True)
    got = output.get_text_embeddings(*cameras(elevation, azimuth))
    index = torch.tensor([NAMES.index(name) for name in names])
    batch = len(DIRECTIONS)
    assert torch.equal(got[:batch], output.text_embeddings_vd[index])
    assert torch.equal(got[batch:], output.uncond_text_embeddings_vd[index])
    # Front and back overlap at wide thresholds: back comes later.
    wide = make(random_sd, front_threshold=120.0, back_threshold=120.0, overhead_threshold=10.0)()
    got = wide.get_text_embeddings(*cameras([0, 0, 20], [30, 100, 100]))
    assert torch.equal(got[:3], wide.text_embeddings_vd[torch.tensor([1, 2, 3])])


def test_without_view_dependence_every_camera_gets_the_prompt(random_sd):
    output = make(random_sd, negative_prompt="a cube")()
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


def test_perp_neg_follows_the_closed_form(random_sd):
    output = make(random_sd, use_perp_neg=True, negative_prompt="a cube")()
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


@pytest.mark.parametrize("prompt", [{}, {"prompt": "???"}, {"prompt": " "}])
def test_a_missing_prompt_names_the_key(random_sd, prompt):
    with pytest.raises(UserError, match="prompt"):
        StableDiffusionPromptProcessor({"pretrained_model_name_or_path": str(random_sd)} | prompt)


def test_wrong_configs_are_told(random_sd):
    with pytest.raises(ConfigKeyError, match="did you mean prompt_side"):
        make(random_sd, prompt_sied="x")
    with pytest.raises(UserError, match="asd_model:tiny-shapes"):
        make("./no/such/model")
    with pytest.raises(UserError, match="write the prompt out"):
        make(random_sd, prompt="lib:red_mug")


def test_a_library_prompt(random_sd, workspace):
    (workspace / "load").mkdir()
    library = {"dreamfusion": ["a zoomed out photo of a red mug", "a blue mug", "a red cube"]}
    (workspace / "load/prompt_library.json").write_text(json.dumps(library))
    assert make(random_sd, prompt="lib:red_mug")().prompt == "a zoomed out photo of a red mug"
    with pytest.raises(UserError, match="not 2"):
        make(random_sd, prompt="lib:mug")
