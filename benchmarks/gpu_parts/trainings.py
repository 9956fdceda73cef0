"""Whole trainings: how fast they are, and what they spend beside the networks."""

import gc
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .network_time import Marks, NetworkTime
from .setup import HERE, ROOT, Setup, going_on

#: Neither validation nor checkpoints nor a progress bar among the measured steps.
BARE = (
    "data.n_test_views=1",
    "trainer.val_check_interval=100000",
    "trainer.enable_progress_bar=false",
    "checkpoint.every_n_train_steps=100000",
)
_SMALL_PICTURES = ("data.batch_size=2", "data.width=16", "data.height=16")
SMALL_NERF = (*_SMALL_PICTURES, "system.renderer.num_samples_per_ray=16")
_SPHERE = (
    "system.geometry_convert_from=null",
    "system.geometry.shape_init=sphere",
    "system.geometry.shape_init_params=0.5",
)
_TINY = ROOT / "configs" / "tiny"


def nerf(setup: Setup, _: Path) -> tuple[Path, tuple[str, ...]]:
    return HERE / "nerf.yaml", SMALL_NERF if setup.reduced else ()


def nerf_sds(setup: Setup, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """benchmarks/nerf.yaml with the guidance of tiny/sds-nerf.yaml in place of ASD's."""
    from omegaconf import OmegaConf, open_dict

    config, sds = OmegaConf.load(HERE / "nerf.yaml"), OmegaConf.load(_TINY / "sds-nerf.yaml")
    with open_dict(config):
        config.system_type = sds.system_type
        config.system.guidance_type = sds.system.guidance_type
        config.system.guidance = sds.system.guidance
        del config.system.loss.lambda_asd, config.system.loss.lambda_lora
        del config.system.optimizer.params.guidance
        config.system.loss.lambda_sds = sds.system.loss.lambda_sds
    file = folder / "nerf-sds.yaml"
    OmegaConf.save(config, file)
    return file, SMALL_NERF if setup.reduced else ()


def geometry(setup: Setup, _: Path) -> tuple[Path, tuple[str, ...]]:
    """From a sphere: a stage that starts from a trial does the same work in a step."""
    small = (*_SMALL_PICTURES, "system.geometry.isosurface_resolution=16") if setup.reduced else ()
    return _TINY / "asd-geometry.yaml", (*_SPHERE, *small)


def images(setup: Setup, _: Path) -> tuple[Path, tuple[str, ...]]:
    small = ("system.n_particles=2", "data.batch_size=2") if setup.reduced else ()
    return _TINY / "asd-2d.yaml", small


def _true_size(setup: Setup, folder: Path) -> tuple[str, tuple[str, ...]]:
    """configs/asd-nerf.yaml on random weights of Stable Diffusion 2.1's size, in half precision;
    only the text's embedding is narrower."""
    from threestudio_asd.tiny.random_sd import write_random_sd

    model = write_random_sd(folder / "sd", sample_size=8 if setup.reduced else 64)
    if not setup.reduced:
        _grow(model, setup.device)
    where = "pretrained_model_name_or_path"
    keys = (f"prompt_processor.{where}", f"guidance.{where}", f"guidance.{where}_lora")
    small = (*SMALL_NERF, "data.batch_size=1") if setup.reduced else ()
    return "asd-nerf", (*(f"system.{key}={model}" for key in keys), *small)


def _grow(model: Path, device: str) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    text = json.loads((model / "text_encoder" / "config.json").read_text())
    with torch.device(device):  # hundreds of millions of weights are drawn faster there
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=text["hidden_size"],
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        )
    unet.half().save_pretrained(model / "unet")
    vae.half().save_pretrained(model / "vae")


Training = Callable[[Setup, Path], tuple[Path, tuple[str, ...]]]


def run(setup: Setup, training: Training, on_step: Callable[[int], None]) -> None:
    from training import train

    gc.collect()
    if setup.cuda:
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as folder:
        config, overrides = training(setup, Path(folder))
        train(on_step, *BARE, *overrides, config=config)


def scenes(setup: Setup) -> None:
    """Iterations per second and peak memory of trainings, and what they spend beside the networks.

    The speed is that of undisturbed steps, between two synchronisations; the share outside UNet and
    VAE that of further ones, in which :class:`NetworkTime` takes the networks' times.
    """
    warm, timed, marked = (1, 1, 1) if setup.reduced else (30, 60, 20)
    figures: dict[str, Any] = {"warm_up_steps": warm, "steps": timed, "marked_steps": marked}
    figures["how"] = (
        "the share outside UNet and VAE is 1 - (the union of their calls, forward and backward) / "
        f"whole, by {'CUDA events' if setup.cuda else 'wall time'}, in steps after the timed ones"
    )
    named = {"nerf, ASD": nerf, "nerf, SDS": nerf_sds, "geometry, ASD": geometry}
    for name, training in named.items():
        with going_on(figures, name):
            figures[name] = _scene(setup, training, warm, timed, marked)
        speeds = {key: figures[key]["iterations_per_second"] for key in named if key in figures}
        figures["headline"] = "; ".join(f"{key} {speed} it/s" for key, speed in speeds.items())
        setup.tell(figures)


def true_size(setup: Setup) -> None:
    """The same of the published NeRF recipe at the size of the published teacher."""
    warm, timed, marked = (1, 1, 1) if setup.reduced else (10, 20, 10)
    figures: dict[str, Any] = {"warm_up_steps": warm, "steps": timed, "marked_steps": marked}
    figures |= _scene(setup, _true_size, warm, timed, marked)
    setup.tell(figures | {"headline": f"{figures['iterations_per_second']} it/s"})


def _scene(setup: Setup, training: Training, warm: int, timed: int, marked: int) -> dict[str, Any]:
    from training import Enough

    from threestudio_asd.compare.run.machine import forget_peak_memory, peak_memory_mb

    figures: dict[str, Any] = {}
    marks = Marks(setup.cuda)
    ends: list[Any] = []
    began = 0.0

    with NetworkTime(marks) as networks:

        def on_step(step: int) -> None:
            nonlocal began
            if step == warm:
                setup.synchronize()
                forget_peak_memory()
                began = time.perf_counter()
            elif step == warm + timed:
                setup.synchronize()
                seconds, peak = time.perf_counter() - began, peak_memory_mb()
                figures["iterations_per_second"] = round(timed / seconds, 2)
                figures["peak_mib"] = None if peak is None else round(peak, 1)
                networks.on = True
                ends.append(marks.now())
            elif step > warm + timed:
                ends.append(marks.now())
            if step == warm + timed + marked:
                setup.synchronize()
                networks.on = False
                whole = marks.seconds(ends[0], ends[-1])
                within = networks.seconds(ends[0])
                figures["milliseconds_of_a_marked_step"] = round(1e3 * whole / marked, 3)
                figures["milliseconds_in_unet_and_vae"] = round(1e3 * within / marked, 3)
                figures["share_outside_unet_and_vae"] = round(1 - within / whole, 3)
                raise Enough

        run(setup, training, on_step)
    return figures
