"""A one-step training as a config describes it: from the teacher to a finished folder."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from threestudio_asd import log
from threestudio_asd.distill.one_step import ONE_STEP_METHODS, OneStepMethod, OneStepSettings
from threestudio_asd.errors import UserError
from threestudio_asd.files import make_folder
from threestudio_asd.generators.callbacks import Samples
from threestudio_asd.generators.one_step import save_generator
from threestudio_asd.generators.reals import sources
from threestudio_asd.generators.samples import draw_noise
from threestudio_asd.generators.train import CHECKPOINT, train
from threestudio_asd.generators.training import OneStepTraining
from threestudio_asd.parallel import set_pieces
from threestudio_asd.studio.config.structured import config_to_primitive, dump_config
from threestudio_asd.studio.device import get_device, prepare_cpu
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.one_step import OneStepGenerator
from threestudio_asd.teachers.unet import parse_dtype

_SHOWN = 16
CONFIG = "config.yaml"
MODEL = "model"


def run(cfg: Any) -> Path:
    """Train, or go on, and write the generator; ``cfg`` is a ``config.OneStepConfig``.

    Returns:
        The generator's folder, ``<out>/model``; checkpoint, config and pictures lie beside it.

    Raises:
        UserError: Whatever of the config cannot be; before the first step.
        Stopped: A signal came; the same command goes on.
    """
    method = ONE_STEP_METHODS.get(cfg.method)
    settings = method.with_settings(config_to_primitive(cfg.settings), "settings")
    _check(cfg, method)
    prepare_cpu()
    set_pieces(cfg.pieces)
    device, out = get_device(), Path(cfg.out)
    dtype = parse_dtype(cfg.precision) if device.type == "cuda" else torch.float32
    teacher = StableDiffusionTeacher.from_pretrained(cfg.teacher, dtype, device)
    beginning = _beginning(cfg, settings, teacher, dtype)
    reals, captions = sources(cfg.reals, cfg.captions, teacher, method.needs_reals)
    training = OneStepTraining(
        *(beginning, teacher.net, method, settings, captions),
        null=teacher.embed_text([""]).tokens[0],
        reals=reals,
        fake_rank=cfg.fake_rank,
        seed=cfg.seed,
    )
    if not (make_folder(out, "use out=...") / CHECKPOINT).is_file():
        dump_config(out / CONFIG, cfg)
    noise = draw_noise(teacher.latent_shape, _SHOWN, cfg.seed)
    text = captions.draw(_SHOWN, torch.Generator().manual_seed(cfg.seed))
    shown = Samples(out / "samples", cfg.save_every, noise, text, teacher.decode)
    generator = train(training, out, cfg.steps, cfg.save_every, [shown])
    dump_config(out / CONFIG, cfg)  # of the training that went on, with more steps say
    folder = save_generator(generator, out / MODEL, cfg.teacher, method.name)
    log.info("The generator is in %s.", folder)
    return folder


def _check(cfg: Any, method: OneStepMethod) -> None:
    if cfg.precision not in ("fp32", "bf16"):
        raise UserError(f"precision={cfg.precision}: use fp32 or bf16.")
    if method.from_generator and cfg.start_from is None:
        raise UserError(
            f"The method '{method.name}' begins with a generator that was trained before: name its "
            "folder, start_from=..."
        )
    if method.needs_reals and cfg.reals.type == "none":
        raise UserError(
            f"The method '{method.name}' learns from real pictures: choose another reals.type "
            "than none."
        )


def _beginning(
    cfg: Any, settings: OneStepSettings, teacher: StableDiffusionTeacher, dtype: torch.dtype
) -> OneStepGenerator:
    """The teacher itself, or the generator that the config names, with weights of its own."""
    begun = OneStepGenerator.of(teacher.net, settings.init_timestep)
    if cfg.start_from is not None:
        found = OneStepGenerator.load(cfg.start_from, device=teacher.schedule.device)
        if found.latent_shape != begun.latent_shape or not found.schedule.same_as(begun.schedule):
            raise UserError(
                f"The generator {cfg.start_from} has other latents or another schedule than the "
                f"teacher {cfg.teacher}: name the teacher that it was trained from."
            )
        widths = [g.unet.config.cross_attention_dim for g in (found, begun)]
        if widths[0] != widths[1]:
            raise UserError(
                f"The generator {cfg.start_from} reads text embeddings of {widths[0]} numbers and "
                f"the teacher {cfg.teacher} makes {widths[1]}: name the teacher that it was "
                "trained from."
            )
        if found.init_timestep != begun.init_timestep:
            raise UserError(
                f"The generator {cfg.start_from} draws from level {found.init_timestep}: set "
                f"settings.init_timestep={found.init_timestep}."
            )
        begun = found
    unet = copy.deepcopy(begun.unet).float()
    return replace(begun, unet=unet, compute=None if dtype == torch.float32 else dtype)
