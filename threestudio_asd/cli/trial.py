"""A finished trial of the embedded world: load it, look at it from the fixed views, judge it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from threestudio_asd import homes
from threestudio_asd.compare.measure.figures import of_mesh
from threestudio_asd.compare.measure.views import render_fixed_views
from threestudio_asd.compare.run.train import surface
from threestudio_asd.errors import UserError
from threestudio_asd.parallel import set_pieces
from threestudio_asd.stop import held
from threestudio_asd.studio.checkpoint.store import load_checkpoint, require_compatible
from threestudio_asd.studio.config.experiment import load_config
from threestudio_asd.studio.device import get_device, prepare_cpu
from threestudio_asd.studio.registry import find
from threestudio_asd.tiny.evaluation import Verdict, assess, parse_prompt
from threestudio_asd.tiny.render import fixed_views


def load_system(trial: Path) -> Any:
    """The trained system of a trial folder, of either host, in eval mode.

    Raises:
        UserError: The folder holds no config or no usable checkpoint, or one of another config.
    """
    config, weights = trial / "configs/parsed.yaml", trial / "ckpts/last.ckpt"
    if not config.is_file():
        raise UserError(f"{trial} is no trial folder: it has no configs/parsed.yaml.")
    checkpoint = load_checkpoint(weights)
    cfg = load_config(config)
    prepare_cpu()
    set_pieces(cfg.pieces)
    system = find(cfg.system_type)(cfg.system, resumed=True)
    _load_scene(system, checkpoint["state_dict"], str(weights))
    system.set_resume_status(int(checkpoint["epoch"]), int(checkpoint["global_step"]))
    system.do_update_step(
        int(checkpoint["epoch"]), int(checkpoint["global_step"]), on_load_weights=True
    )
    return system.to(get_device()).eval()


def _load_scene(system: Any, state: dict[str, torch.Tensor], path: str) -> None:
    """The weights of what is looked at: prompts, guidance and critic stay as they are."""
    own = {name: value for name, value in system.state_dict().items() if _of_scene(name)}
    given = {name: value for name, value in state.items() if _of_scene(name)}
    require_compatible(given, own, path)
    system.load_state_dict(given, strict=False)


def _of_scene(name: str) -> bool:
    return name.split(".")[0] in ("geometry", "material", "background", "renderer")


def judge_trial(trial: Path, prompt: str) -> tuple[Verdict, Path]:
    """Judge the trial's result; writes ``fixed_views.png`` (result above truth) and
    ``verdict.json`` into the trial folder and returns the verdict and the picture's path.

    Raises:
        UserError: The prompt is not of the embedded world, or the trial cannot be loaded or written
            to.
    """
    object_name, color_name = parse_prompt(prompt)
    if trial.is_dir() and (reason := homes.unwritable(trial)):
        raise UserError(
            f"cannot write the verdict to the trial folder {trial}: {reason}. Judge a copy of it."
        )
    system = load_system(trial)
    images, opacity = render_fixed_views(system)
    verdict = assess(images, opacity, object_name, color_name)
    shape = of_mesh(surface(system), object_name, verdict.rotation)
    verdict = replace(verdict, **shape)
    truth, _ = fixed_views(object_name, color_name)
    grid = torch.cat([torch.cat(list(row), dim=-1) for row in (images, truth)], dim=-2)
    picture = Image.fromarray((grid.permute(1, 2, 0).numpy() * 255).round().astype("uint8"))
    path = trial / "fixed_views.png"
    picture = picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.LANCZOS)
    with held():
        picture.save(path)
        (trial / "verdict.json").write_text(json.dumps(verdict.as_dict(), indent=1) + "\n")
    return verdict, path
