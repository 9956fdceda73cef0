"""A generator's folder: an ordinary model that any pipeline loads, and what is no generator."""

import copy
import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline

from threestudio_asd.cli.main import main
from threestudio_asd.errors import UserError
from threestudio_asd.generators.one_step import find_teacher, save_generator
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.one_step import NOTE, Note, OneStepGenerator, read_note
from threestudio_asd.teachers.unet import FrozenUNet
from threestudio_asd.tiny import model_folder
from threestudio_asd.tiny.random_sd import random_unet, write_random_sd


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def teacher(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    return write_random_sd(folder, request.param, seed=1)


@pytest.fixture
def generator(teacher):
    """The teacher with other weights."""
    torch.manual_seed(5)
    made = OneStepGenerator.of(FrozenUNet.load(teacher), 400)
    made.unet.load_state_dict(random_unet().state_dict())
    return made


def draws(generator):
    torch.manual_seed(0)
    z, text = torch.randn(2, *generator.latent_shape), torch.randn(2, 77, 24)
    with torch.no_grad():
        return generator.generate(z, text)


def test_a_saved_generator_is_the_generator(generator, teacher, tmp_path):
    before = copy.deepcopy(generator.unet.state_dict())
    folder = save_generator(generator, tmp_path / "g", teacher, "sida", half=False)
    found = OneStepGenerator.load(folder)
    assert torch.equal(draws(found), draws(generator))
    assert found.prediction_type == generator.prediction_type
    assert read_note(folder) == Note(400, "sida", str(teacher))
    half = OneStepGenerator.load(save_generator(generator, tmp_path / "g", teacher, "sida"))
    torch.testing.assert_close(draws(half), draws(generator), rtol=0.02, atol=0.02)
    assert not torch.equal(draws(half), draws(generator))
    after = generator.unet.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_what_lay_there_goes(generator, teacher, tmp_path):
    (tmp_path / "g").mkdir()
    (tmp_path / "g/old.txt").write_text("old")
    folder = save_generator(generator, tmp_path / "g", teacher, "sid")
    parts = {"unet", "vae", "text_encoder", "tokenizer", "scheduler", "model_index.json", NOTE}
    assert {path.name for path in folder.iterdir()} == parts
    assert list(tmp_path.iterdir()) == [folder]


def test_it_loads_in_diffusers_pipeline(generator, teacher, tmp_path):
    folder = save_generator(generator, tmp_path / "g", teacher, "sida")
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe("a red mug", num_inference_steps=2, output_type="pt").images
    assert image.shape == (3, 64, 64) and image.isfinite().all()
    expected = OneStepGenerator.load(folder).unet.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in pipe.unet.state_dict().items())


def test_it_is_a_teacher(generator, teacher, tmp_path):
    folder = save_generator(generator, tmp_path / "g", teacher, "sida", half=False)
    found = StableDiffusionTeacher.from_pretrained(folder)
    x_t, t = torch.randn(1, *found.latent_shape), torch.tensor([400])
    text = Condition(torch.randn(1, 77, 24))
    own = FrozenUNet(generator.unet, generator.schedule, generator.prediction_type)
    assert torch.equal(found.epsilon(x_t, t, text), own.epsilon(x_t, t, text))


@pytest.mark.slow
def test_a_nerf_trains_from_it(generator, teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save_generator(generator, tmp_path / "g", teacher, "sida")
    overrides = [
        f"system.{part}.pretrained_model_name_or_path={folder}"
        for part in ("guidance", "prompt_processor")
    ]
    overrides += ["trainer.max_steps=2", "trainer.val_check_interval=2", "use_timestamp=false"]
    overrides += ["data.width=16", "data.height=16", "data.batch_size=1", "tag=run"]
    overrides += ["data.eval_height=16", "data.eval_width=16", "data.n_val_views=1"]
    overrides += ["data.n_test_views=2", "data.resolution_milestones=[]"]
    overrides += ["system.renderer.num_samples_per_ray=32"]
    overrides += ["system.geometry.pos_encoding_config.log2_hashmap_size=12"]
    overrides += ["system.prompt_processor.prompt=a red mug"]
    assert main(["launch", "--config", "tiny/asd-nerf", "--train", *overrides]) == 0
    (trial,) = tmp_path.glob("outputs/*/run")
    assert (trial / "ckpts/last.ckpt").is_file()


def test_an_edition_of_the_embedded_model_is_named_without_a_place(tmp_path):
    teacher = model_folder("tiny-shapes")
    generator = OneStepGenerator.of(FrozenUNet.load(teacher))
    note = read_note(save_generator(generator, tmp_path / "g", teacher, "sid"))
    assert note.teacher.startswith("tiny-shapes-") and "/" not in note.teacher
    assert find_teacher(note.teacher) == teacher
    assert find_teacher("someone/a-model") == "someone/a-model"


@pytest.mark.parametrize(
    ("note", "message"),
    [
        (None, "no generator of one step: it has no one_step.json"),
        ("{", r"one_step.json cannot be read .*Get it anew"),
        ('{"method": "sid", "teacher": "t"}', r"'init_timestep'.*should name init_timestep"),
        ('{"init_timestep": "625", "method": "sid", "teacher": "t"}', "types str, str, str"),
        ('{"init_timestep": true, "method": "sid", "teacher": "t"}', "types bool, str, str"),
        ("[1]", "cannot be read"),
        ('{"init_timestep": 1000, "method": "sid", "teacher": "t"}', "is no level"),
    ],
)
def test_a_folder_without_a_good_note_is_refused(random_sd, tmp_path, note, message):
    folder = shutil.copytree(random_sd, tmp_path / "g")
    if note is not None:
        (folder / NOTE).write_text(note)
    with pytest.raises(UserError, match=message) as error:
        OneStepGenerator.load(folder)
    assert "\n" not in str(error.value)


def test_no_folder_is_told(tmp_path):
    with pytest.raises(UserError, match=r"There is no folder '.*g': give one that"):
        OneStepGenerator.load(tmp_path / "g")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 9}, "cannot be a teacher: it is an inpainting model"),
        ({"block_out_channels": [16, 16]}, "The weights in .*unet"),
        ({"addition_embed_type": "text_time"}, "cannot be a teacher: it is an SDXL model"),
        ({"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4}, "unet"),
    ],
)
def test_a_network_of_another_architecture_is_refused(random_sd, tmp_path, change, message):
    generator = OneStepGenerator.of(FrozenUNet.load(random_sd))
    folder = save_generator(generator, tmp_path / "g", random_sd, "sid")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message) as error:
        OneStepGenerator.load(folder)
    assert "\n" not in str(error.value)
