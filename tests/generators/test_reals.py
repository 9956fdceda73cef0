"""Sources of real pictures and captions: the embedded world, a teacher's samples, files, none."""

from random import Random
from types import SimpleNamespace

import pytest
import torch

from threestudio_asd.errors import NotRegisteredError, UserError
from threestudio_asd.generators import reals
from threestudio_asd.generators.data.captions import world_captions
from threestudio_asd.generators.reals import RealsConfig, sources
from threestudio_asd.generators.samples import teacher_latents
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.tiny.captions import VIEWS
from threestudio_asd.tiny.dataset import build
from threestudio_asd.tiny.random_sd import write_random_sd
from threestudio_asd.tiny.scenes import COLORS, HELD_OUT, OBJECTS, training_pairs


@pytest.fixture(scope="module")
def teacher(random_sd):
    return StableDiffusionTeacher.from_pretrained(random_sd)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def of(**given):
    return SimpleNamespace(**{**vars(RealsConfig()), **given})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_worlds_pictures_are_its_renders(teacher, monkeypatch):
    found, captions = sources(of(count=12), None, teacher)
    renders = build(12, reals.RENDER_SEED, training_pairs(), 0.0)
    means = StableDiffusionTeacher(teacher.net, teacher.vae, teacher.folder, posterior="mean")
    with torch.no_grad():
        expected = means.encode(renders.images.float() / 255)
    torch.testing.assert_close(found.latents, expected)
    # Read back, and the same draws from the same seed.
    monkeypatch.setattr(reals, "build", None)
    again, _ = sources(of(count=12), None, teacher)
    for a, b in zip(found.draw(5, seeded()), again.draw(5, seeded()), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(found.draw(5, seeded())[0], found.draw(5, seeded(1))[0])
    # Each is called what it shows, however it is worded.
    said = found.captions.say(range(12), Random(0))
    labels = zip(renders.objects.tolist(), renders.colors.tolist(), strict=True)
    for text, (o, c) in zip(said, labels, strict=True):
        words = set(text.replace(",", " ").split())
        assert words & {list(OBJECTS)[o], list(COLORS)[c]}
        assert not words & (OBJECTS.keys() | COLORS.keys()) - {list(OBJECTS)[o], list(COLORS)[c]}
    assert captions.draw(3, seeded()).shape == (3, 77, 24)


def test_the_worlds_captions_are_of_all_pairs_but_those_held_out(teacher):
    captions = world_captions(teacher)
    said = captions.say(range(captions.count), Random(0))
    assert "" not in said
    named = set()
    for text in said:
        words = set(text.replace(",", " ").split())
        named |= {(o, c) for o in words & OBJECTS.keys() for c in words & COLORS.keys()}
    assert named == set(training_pairs()) and not named & set(HELD_OUT)
    # A side of the camera's circle is twice a front or a back.
    shares = {v: sum(f"{v} view" in text for text in said) for v in VIEWS}
    assert 1.5 < shares["side"] / shares["front"] < 2.6


def test_without_need_no_picture_is_made(teacher, monkeypatch):
    monkeypatch.setattr(reals, "build", None)
    found, captions = sources(of(), None, teacher, needed=False)
    assert found is None and captions.count > 1000


def test_a_teachers_samples_have_their_captions(teacher, tmp_path):
    (tmp_path / "captions.txt").write_text("a red mug\n\n a blue cube \n")
    cfg = of(type="teacher", count=5, scale=2.0, seed=3)
    found, captions = sources(cfg, "captions.txt", teacher)
    assert captions.count == 2 and found.latents.shape == (5, 4, 8, 8)
    texts = found.captions.say(range(5), Random(0))
    assert set(texts) <= {"a red mug", "a blue cube"}
    expected = teacher_latents(teacher, texts, 2.0, seed=3)
    assert torch.equal(found.latents, expected)


def test_captions_of_the_world_can_be_named(teacher):
    found, captions = sources(of(type="none"), "world", teacher)
    assert found is None and captions.count == world_captions(teacher).count


def test_bad_sources_are_told_in_a_line(teacher, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    other = StableDiffusionTeacher.from_pretrained(write_random_sd(tmp_path / "16", sample_size=16))
    cases = [
        (of(type="photos"), None, teacher, r"'photos'; choose one of: folder, none, teacher"),
        (of(type="none"), None, teacher, "reals.type=none brings no captions: name a text file"),
        (of(type="teacher"), None, teacher, "reals.type=teacher brings no captions"),
        (of(type="folder"), None, teacher, r"needs reals.folder=\.\.\."),
        (of(count=0), None, teacher, "reals.count=0: at least 1"),
        (of(type="none"), "empty.txt", teacher, "empty.txt is empty: write a caption on each"),
        (of(type="none"), "gone.txt", teacher, "captions=gone.txt cannot be read"),
        (of(), None, other, "pictures of 64 pixels and the teacher draws 128"),
    ]
    for cfg, captions, model, message in cases:
        with pytest.raises((UserError, NotRegisteredError), match=message) as error:
            sources(cfg, captions, model)
        assert "\n" not in str(error.value)
