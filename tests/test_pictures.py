"""Folders of pictures with captions: what is drawn of them, and what is said of bad ones."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from threestudio_asd.errors import UserError
from threestudio_asd.generators import reals
from threestudio_asd.generators.reals import RealsConfig, sources
from threestudio_asd.pictures import captioned, read_picture
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher

TEXTS = {"a.png": "a red mug", "sub/b.jpg": "a blue cube", "c.webp": "a green tree"}
COLORS = {"a.png": (200, 30, 30), "sub/b.jpg": (30, 30, 200), "c.webp": (30, 160, 30)}


def write(folder, texts=TEXTS, size=(64, 64)):
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in texts.items()]
    folder.mkdir(exist_ok=True)
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    for name in TEXTS:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size, COLORS[name]).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def teacher(random_sd):
    return StableDiffusionTeacher.from_pretrained(random_sd, posterior="mean")


@pytest.fixture
def drawn(teacher, tmp_path, monkeypatch):
    """(latents, embeddings) of many draws from a folder."""
    monkeypatch.chdir(tmp_path)

    def draw(folder, count=40):
        cfg = SimpleNamespace(**{**vars(RealsConfig()), "type": "folder", "folder": str(folder)})
        found, _ = sources(cfg, None, teacher)
        return found.draw(count, torch.Generator().manual_seed(0))

    return draw


def test_pictures_are_drawn_with_their_own_captions(drawn, teacher, tmp_path):
    folder = write(tmp_path / "pictures")
    latents, text = drawn(folder)
    seen = set()
    for name, said in TEXTS.items():
        picture = read_picture(folder / name, 64)
        with torch.no_grad():
            expected = teacher.encode(picture[None])[0]
        mine = [torch.allclose(x, expected, atol=1e-3) for x in latents]
        own = torch.tensor(
            [torch.allclose(x, teacher.embed_text([said]).tokens[0], atol=1e-4) for x in text]
        )
        assert torch.equal(torch.tensor(mine), own) and own.any()
        seen |= set(torch.nonzero(own).flatten().tolist())
    assert seen == set(range(40))


def test_a_second_start_reads_what_the_first_has_encoded(drawn, tmp_path, monkeypatch):
    folder = write(tmp_path / "pictures")
    first = drawn(folder)
    monkeypatch.setattr(reals, "encoder", None)
    assert all(torch.equal(a, b) for a, b in zip(first, drawn(folder), strict=True))
    Image.new("RGB", (70, 70), (1, 2, 3)).save(folder / "a.png")  # another picture
    with pytest.raises(TypeError):
        drawn(folder)


def test_the_middle_square_is_taken_and_white_lies_behind(tmp_path):
    pixels = np.zeros((10, 30, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[:, :10, 0] = pixels[:, 10:20, 1] = pixels[:, 20:, 2] = 255  # red, green, blue
    pixels[5:, 10:20, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = read_picture(tmp_path / "wide.png", 10)
    assert torch.equal(found[:, 0, 5], torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(found[:, 9, 5], torch.ones(3))
    assert found[0, :5].max() < 0.05 and found[2, :5].max() < 0.05


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "1"])
def test_pictures_of_every_kind_are_read(tmp_path, mode):
    file = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new(mode, (7, 200)).save(file)
    found = read_picture(file, 64)
    assert found.shape == (3, 64, 64) and found.min() >= 0 and found.max() <= 1


def test_unreadable_pictures_are_named_and_counted(drawn, teacher, tmp_path, caplog):
    folder = write(tmp_path / "pictures")
    (folder / "a.png").write_bytes(b"no picture")
    whole = (folder / "c.webp").read_bytes()
    (folder / "c.webp").write_bytes(whole[: len(whole) // 2])
    _, text = drawn(folder)
    only = teacher.embed_text(["a blue cube"]).tokens[0]
    assert all(torch.allclose(x, only, atol=1e-4) for x in text)
    assert "a.png is no picture that can be read" in caplog.text
    assert "c.webp is no picture that can be read" in caplog.text
    assert "2 of 3 pictures are left out" in caplog.text
    caplog.clear()
    drawn(folder)  # from what is kept: the count is told again
    assert "2 of 3 pictures are left out" in caplog.text


def test_nothing_readable_is_an_error(drawn, tmp_path):
    folder = write(tmp_path / "pictures")
    for name in TEXTS:
        (folder / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"None of the 3 pictures in .* can be read"):
        drawn(folder)


GOOD = [json.dumps({"file_name": name, "text": text}) for name, text in TEXTS.items()]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (GOOD[:2], r"3 pictures and 2 captions .* 1 without a caption \(such as c.webp\)"),
        (
            [*GOOD, '{"file_name": "d.png", "text": "x"}'],
            r"1 without a picture \(such as d.png\)",
        ),
        ([*GOOD, GOOD[0]], "two captions for a.png"),
        (["{"], "Line 1 of .*metadata.jsonl cannot be read"),
        ([*GOOD[:2], '{"file_name": "c.webp"}'], "Line 3 .*it lacks 'text'"),
        (['{"file_name": "a.png", "text": 5}'], "must be texts"),
        (["[1, 2]"], "Line 1 .* cannot be read"),
    ],
)
def test_captions_that_do_not_fit_are_told(tmp_path, lines, message):
    folder = write(tmp_path / "pictures")
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message) as error:
        captioned(folder)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_none_is_told(tmp_path, drawn):
    with pytest.raises(UserError, match="There is no folder of pictures"):
        captioned(tmp_path / "gone")
    with pytest.raises(UserError, match=r"has no metadata.jsonl: write one with a line for each"):
        captioned(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(UserError, match=r"has no pictures \(.png, "):
        captioned(tmp_path)
