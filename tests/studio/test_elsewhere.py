"""Names of threestudio's that this host lacks: what runs them, and what is nearest here."""

import pytest

from threestudio_asd import guidance, systems  # noqa: F401  (they register)
from threestudio_asd.cli.main import main
from threestudio_asd.errors import NotRegisteredError
from threestudio_asd.studio import data, models  # noqa: F401
from threestudio_asd.studio.config.files import find_config
from threestudio_asd.studio.elsewhere import PARTS, SYSTEMS, advice
from threestudio_asd.studio.registry import find, names

# Whatever the configs of threestudio (December 2024) name as the type of anything.
THREESTUDIO = [
    "control4d-multiview-system",
    "dreamfusion-system",
    "efficient-dreamfusion-system",
    "fantasia3d-system",
    "image-condition-dreamfusion-system",
    "instructnerf2nerf-system",
    "latentnerf-system",
    "magic123-system",
    "magic3d-system",
    "prolificdreamer-system",
    "sdi-system",
    "sjc-system",
    "textmesh-system",
    "zero123-simple-system",
    "zero123-system",
    "co3d-datamodule",
    "eff-random-camera-datamodule",
    "multiview-camera-datamodule",
    "random-camera-datamodule",
    "single-image-datamodule",
    "custom-mesh",
    "implicit-sdf",
    "implicit-volume",
    "tetrahedra-sdf-grid",
    "volume-grid",
    "diffuse-with-point-light-material",
    "hybrid-rgb-latent-material",
    "neural-radiance-material",
    "no-material",
    "pbr-material",
    "sd-latent-adapter-material",
    "neural-environment-map-background",
    "solid-color-background",
    "textured-background",
    "gan-volume-renderer",
    "nerf-volume-renderer",
    "neus-volume-renderer",
    "nvdiff-rasterizer",
    "patch-renderer",
    "controlnet-guidance",
    "deep-floyd-guidance",
    "stable-diffusion-controlnet-guidance",
    "stable-diffusion-guidance",
    "stable-diffusion-instructpix2pix-guidance",
    "stable-diffusion-sdi-guidance",
    "stable-diffusion-unified-guidance",
    "stable-diffusion-vsd-guidance",
    "stable-zero123-guidance",
    "zero123-guidance",
    "zero123-unified-guidance",
    "deep-floyd-prompt-processor",
    "dummy-prompt-processor",
    "stable-diffusion-prompt-processor",
    "dummy-exporter",
    "mesh-exporter",
    "perceptual-loss",
]
LACKING = sorted({*THREESTUDIO} - {*names()})


def test_the_tables_hold_what_is_lacking_and_nothing_else():
    assert set(LACKING) <= {*SYSTEMS, *PARTS}
    assert not {*SYSTEMS, *PARTS} & {*names()}


@pytest.mark.parametrize("name", LACKING)
def test_a_name_that_is_lacking_says_what_runs_it(name):
    with pytest.raises(NotRegisteredError) as error:
        find(name)
    message = str(error.value)
    assert f'"{name}"' in message and "threestudio-asd upstream CHECKOUT --config" in message
    assert "Nearest" in message and "\n" not in message


def test_what_is_nearest_is_there():
    for text in SYSTEMS.values():
        for word in text.replace(",", "").split():
            if word.startswith(("asd-", "sds-", "vsd-")):
                assert find_config(word).is_file()
    for text in PARTS.values():
        assert text == "none" or text.split()[0].rstrip(",") in names()


def test_other_names_are_told_as_ever():
    assert advice("magic4d-system") is None
    with pytest.raises(NotRegisteredError, match="Nearest: dreamfusion-system"):
        find("dreamfusion-sistem")


CONFIG = """
name: theirs
tag: run
data_type: {data}
data: {{image_path: "{path}"}}
system_type: {system}
system: {{guidance_type: {guidance}}}
"""


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"system": "zero123-system"}, "zero123-system"),
        ({"system": "zero123-system", "path": "???"}, "zero123-system"),  # a gap besides
        ({"data": "co3d-datamodule", "path": "???"}, "co3d-datamodule"),
        ({"guidance": "deep-floyd-guidance"}, "deep-floyd-guidance"),
    ],
)
def test_a_config_of_threestudio_is_told_in_one_line(tmp_path, monkeypatch, capsys, parts, named):
    monkeypatch.chdir(tmp_path)
    parts = {
        "data": "random-camera-datamodule",
        "system": "dreamfusion-system",
        "guidance": "stable-diffusion-guidance",
        "path": "a.png",
        **parts,
    }
    (tmp_path / "theirs.yaml").write_text(CONFIG.format(**parts))
    assert main(["launch", "--config", "theirs.yaml", "--train"]) == 2
    error = capsys.readouterr().err.partition("error: ")[2].strip()
    assert f'"{named}" is threestudio\'s own' in error and "\n" not in error
    assert ("leaves data.image_path open" in error) == (parts["path"] == "???")
    assert not (tmp_path / "outputs").exists()
