"""``edit``: from a picture to an edited one beside it, and what is no picture."""

import numpy as np
import pytest
from PIL import Image

from threestudio_asd.cli.edit import read_picture
from threestudio_asd.cli.main import main
from threestudio_asd.errors import UserError
from threestudio_asd.tiny.render import fixed_views

SHORT = ("trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.enable_progress_bar=false")
WORDS = ("--from", "a red mug", "--to", "a blue mug")


@pytest.fixture
def photo(tmp_path):
    """A wide one of a red mug."""
    pixels = (fixed_views("mug", "red")[0][1].permute(1, 2, 0) * 255).round().byte().numpy()
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).resize((90, 60)).save(path)
    return path


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize("method", ["asd-pair", pytest.param("dds", marks=pytest.mark.slow)])
def test_a_picture_is_edited_and_stays(photo, tmp_path, capsys, method):
    before = photo.read_bytes()
    out = tmp_path / "out"
    command = ["edit", str(photo), *WORDS, "--method", method, "--out", str(out), *SHORT]
    assert main(command) == 0
    assert photo.read_bytes() == before
    (folder,) = out.iterdir()
    said = capsys.readouterr()
    assert f"{folder}/edited.png" in said.out
    assert "90 x 60 pixels were edited as 64 x 64" in said.err
    assert np.array_equal(pixels(folder / "original.png"), pixels(photo))
    original, edited, both = (pixels(folder / f"{n}.png") for n in ("original", "edited", "both"))
    assert edited.shape == original.shape == (60, 90, 3)
    assert np.array_equal(both, np.concatenate([original, edited], axis=1))
    # After two steps it is what the encoder makes of the original, and a little bluer.
    assert 0 < abs(edited - original).mean() < 25
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and 'type="range"' in page
    assert f"&quot;a red mug&quot; to &quot;a blue mug&quot; by {method}" in page
    assert "The judge calls the original &quot;a red mug&quot;" in page
    # Again: another folder.
    assert main(command) == 0
    assert len(list(out.iterdir())) == 2


def test_equal_prompts_are_nothing_to_do(photo, tmp_path, capsys):
    command = ["edit", str(photo), "--from", "a red  mug", "--to", "a red mug "]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_what_is_no_picture_is_told_and_nothing_is_made(photo, tmp_path, capsys):
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    half = tmp_path / "half.png"
    half.write_bytes(photo.read_bytes()[:-400])
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(deep)
    for path, message in (
        (tmp_path / "gone.png", "There is no picture"),
        (tmp_path, "There is no picture"),
        (text, "is no picture that can be read"),
        (half, "is no picture that can be read"),
        (deep, "more than 8 bits"),
    ):
        assert main(["edit", str(path), *WORDS, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    command = ["edit", str(photo), "--from", "a cat", "--to", "a dog"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "--config asd-2d-edit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_transparency_is_put_on_a_colour(tmp_path, caplog):
    rgba = np.zeros((4, 6, 4), dtype=np.uint8)
    rgba[:2] = (255, 0, 0, 255)
    rgba[2:] = (0, 255, 0, 0)
    path = tmp_path / "a.png"
    Image.fromarray(rgba).save(path)
    with caplog.at_level("INFO", logger="threestudio_asd"):
        found = np.asarray(read_picture(path, "#0000ff"))
    assert (found[:2] == (255, 0, 0)).all() and (found[2:] == (0, 0, 255)).all()
    assert "transparent in parts: #0000ff is put behind it" in caplog.text
    with pytest.raises(UserError, match="--background nocolour is no colour"):
        read_picture(path, "nocolour")


def test_a_picture_lies_as_its_camera_says(tmp_path):
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").size == (4, 6)


def test_outside_of_a_mask_no_pixel_changes(photo, tmp_path):
    mask = np.zeros((60, 90), dtype=np.uint8)
    mask[20:50, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    command = ["edit", str(photo), *WORDS, "--method", "dds", "--out", str(tmp_path / "out")]
    assert main([*command, "--mask", str(tmp_path / "mask.png"), *SHORT]) == 0
    (folder,) = (tmp_path / "out").iterdir()
    changed = abs(pixels(folder / "edited.png") - pixels(photo)).sum(axis=2) > 0
    assert not changed[mask == 0].any() and changed[mask > 0].mean() > 0.5


def test_what_is_no_mask_is_told_and_nothing_is_made(photo, tmp_path, capsys):
    Image.new("L", (90, 60)).save(tmp_path / "black.png")
    Image.new("L", (60, 60), 255).save(tmp_path / "small.png")
    for name, message in (
        ("gone.png", "There is no picture"),
        ("black.png", "is black"),
        ("small.png", "60 x 60 pixels and the picture 90 x 60"),
    ):
        command = ["edit", str(photo), *WORDS, "--mask", str(tmp_path / name)]
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
