"""MVDream's official numbers (references/README.md) as the files that a user has."""

import json
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file

from threestudio_asd.teachers.mvdream import mvdream, require_mvdream
from threestudio_asd.tiny.random_sd import random_unet, write_random_sd

NUMBERS = Path(__file__).parent / "references/mvdream_official.safetensors"
#: Case -> what diffusers calls its attention, as in Stable Diffusion 2 and 1.
CASES = {
    "sd2": {"attention_head_dim": (2, 4), "use_linear_projection": True},
    "sd1": {"attention_head_dim": 8},
}
PREFIX = "model.diffusion_model."


def metadata(key):
    with safe_open(NUMBERS, "pt") as file:
        return json.loads(file.metadata()[key])


def official_state(case):
    """The weights of a case by the names of MVDream's files."""
    exponents, state = metadata("exponents"), {}
    for key, value in load_file(NUMBERS).items():
        if not key.startswith("state."):
            continue
        name = key.removeprefix("state.")
        value = value.float() * 2.0 ** exponents.get(name, 0)
        if name.endswith(("proj_in.weight", "proj_out.weight")) and case == "sd1":
            value = value[..., None, None]
        state[PREFIX + name] = value
    return state


def write_base(folder, case="sd2", text_width=24, **settings):
    """A model whose UNet has the architecture that a case was trained from, and other weights."""
    write_random_sd(folder, text_width=text_width, **settings)
    unet = random_unet(8, (32, 64), text_width, norm_num_groups=32, **CASES[case])
    unet.save_pretrained(folder / "unet")
    return folder


def config(base, **keys):
    """A guidance's config that asks for MVDream."""
    known = {"pretrained_model_name_or_path": str(base), "half_precision_weights": True}
    return OmegaConf.create(known | {k: str(v) for k, v in keys.items()} | {"LoRA_path": None})


def teacher_of(base, **keys):
    return mvdream(config(base, **keys), torch.device("cpu"))


def require(base, **keys):
    """The question before a training."""
    require_mvdream(config(base, **keys))
