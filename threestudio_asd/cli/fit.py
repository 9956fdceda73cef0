"""Describes a model and a LoRA file, and whether they fit; a page of ``doctor``."""

from collections.abc import Iterator
from pathlib import Path

from threestudio_asd import homes
from threestudio_asd.cli.places import Found
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import resolve

_PARTS = ("unet", "scheduler")


def is_model(path: str | Path) -> bool:
    """Whether a folder looks like a model in Stable Diffusion's format."""
    folder = homes.expanded(path)
    return (folder / "model_index.json").is_file() or (folder / "unet").is_dir()


def fit(model: str | None, lora: str | None, offline: bool) -> dict[str, list[Found]]:
    """Findings by section: of the model, of the LoRA and of both together.

    Nothing is trained, downloaded or changed, and no weights of the model are read.

    Args:
        model: A folder or a hub id.
        lora: A file or a folder, as for ``LoRA_path``.
        offline: Do not ask the hub where the model is.
    """
    sections: dict[str, list[Found]] = {}
    if model is not None:
        folder = _found(sections.setdefault("Model", []), model, offline)
        if folder is not None:
            _listed(sections["Model"], _network(folder))
    if lora is not None:
        _listed(sections.setdefault("LoRA", []), _change(lora))
    if model is not None and lora is not None and _well(sections):
        _listed(sections.setdefault("Together", []), _together(folder, lora))
    return sections


def verdict(sections: dict[str, list[Found]]) -> tuple[bool, str]:
    """(whether all is well, in a sentence)."""
    if not _well(sections):
        return False, "This cannot be used."
    return True, "They fit." if "Together" in sections else "This can be read."


def _well(sections: dict[str, list[Found]]) -> bool:
    return all(mark != "no" for rows in sections.values() for _, mark, _ in rows)


def _listed(rows: list[Found], found: Iterator[Found]) -> None:
    """Append what is found until an error, and that."""
    try:
        rows.extend(found)
    except UserError as error:
        rows.append(("refused", "no", str(error)))


def _found(rows: list[Found], model: str, offline: bool) -> Path | None:
    try:
        where = resolve.whereabouts(model, _PARTS, offline)
        if where.startswith("hub") and not where.startswith("hub cache"):
            raise UserError(
                f"The model '{model}' is on the hub and not on this machine, and doctor downloads "
                f"nothing. Get it first: hf download {model}"
            )
        folder = resolve.resolve_model(model, _PARTS)
    except UserError as error:
        rows.append((model, "no", str(error)))
        return None
    rows.append(("place", "yes", f"{where}, {folder}"))
    return folder


def _network(folder: Path) -> Iterator[Found]:
    from diffusers import DDPMScheduler

    from threestudio_asd.teachers.lora.fuse import TEXT_WIDTHS

    unet = _skeleton(folder)
    width = unet.config.cross_attention_dim
    size = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    yield "network", "yes", f"UNet of {size:.1f} M parameters"
    known = TEXT_WIDTHS.get(width) if isinstance(width, int) else None
    yield "text", "yes", f"{width} numbers per word" + (f", as in {known}" if known else "")
    side = unet.config.sample_size
    yield "latents", "yes", f"{unet.config.in_channels} x {side} x {side}"
    scheduler = DDPMScheduler.load_config(folder, subfolder="scheduler")
    yield "prediction", "yes", scheduler.get("prediction_type", "epsilon")


def _skeleton(folder: Path):
    """The model's UNet without weights."""
    import torch
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(folder, subfolder="unet")
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def _change(lora: str) -> Iterator[Found]:
    from threestudio_asd.teachers.lora.fuse import LoRAFile

    file = LoRAFile.read(lora)
    yield "file", "yes", str(file.path)
    yield "change", "yes", file.describe()
    yield "strength", "yes", file.strength.describe(file.layers.values())
    if made_for := file.made_for():
        yield "made for", "yes", made_for
    for key in ("ss_base_model_version", "ss_sd_model_name", "modelspec.architecture"):
        if note := file.metadata.get(key):
            yield "trainer's note", "yes", f"{key}: {note}"
    if file.left_out:
        yield "left out", "partly", file.left_out


def _together(folder: Path, lora: str) -> Iterator[Found]:
    from threestudio_asd.teachers.lora.fuse import LoRAFile

    layers = LoRAFile.read(lora).merge(_skeleton(folder))
    yield "fit", "yes", f"layers changed: {layers}; no tensor is left over"
