"""Folders that may be models in diffusers' format, and what else they may be."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from threestudio_asd.errors import UserError
from threestudio_asd.files import folder_written_whole
from threestudio_asd.pretrained import kinds
from threestudio_asd.pretrained.files import component_files, file_names

#: The parts of a text-to-image model in Stable Diffusion's folder format that we read.
STABLE_DIFFUSION = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# Files that hold a whole model, a UNet or a LoRA.
SINGLE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
FOREIGN = {".onnx": "ONNX", ".msgpack": "Flax", ".h5": "TensorFlow", ".gguf": "GGUF"}


def single_file(file: str) -> str:
    return (
        f"A model or a UNet in one file is given as system.guidance.ckpt_path={file} (of "
        "stable-diffusion-asd-guidance), a LoRA as system.guidance.LoRA_path, beside the model "
        "that it was made from as pretrained_model_name_or_path."
    )


def checked(folder: Path, components: Sequence[str]) -> Path:
    names = file_names(folder)
    configs = kinds.read_configs(folder, ("", *components))
    if missing := lacking(names, components):
        raise UserError(
            f"The model folder {folder} lacks {missing} (each holds a configuration, and weights "
            f"as .safetensors or .bin).{_guess(folder, names, configs)}"
        )
    kinds.require_teacher(folder, configs)
    return folder


def _guess(folder: Path, names: Sequence[str], configs: kinds.Configs) -> str:
    """What a folder that is no model may be, as a sentence after another, or ""."""
    singles = [n for n in names if "/" not in n and n.endswith(SINGLE)]
    foreign = {kind for n in names for suffix, kind in FOREIGN.items() if n.endswith(suffix)}
    guess = kinds.pipeline(names, configs.get("", {}))
    if not guess and foreign:
        guess = f"Its weights are those of {' and '.join(sorted(foreign))}, which are not read."
    elif not guess and "config.json" in names and singles:
        guess = f"It holds one network: {single_file(str(folder))}"
    elif not guess and singles:
        guess = f"{single_file(str(folder / singles[0]))}"
    return f" {guess}" if guess else ""


def lacking(names: Sequence[str], components: Sequence[str]) -> str:
    return ", ".join(c or "model files" for c in components if not component_files(names, c))


@contextmanager
def model_written_whole(
    out: str | Path, source: Path, without: Sequence[str] = ()
) -> Iterator[Path]:
    """Yields a new folder that has the parts of the model ``source`` but those in ``without``, as
    far as loading reads them; with what the block puts there it becomes ``out``, in place of what
    lay there.

    Raises:
        DiskFullError: There is no room for it; what lay there is still there.
    """
    names, out = file_names(source), Path(out)
    kept = [part for part in STABLE_DIFFUSION if part not in without]
    copied = [name for part in kept for name in component_files(names, part)]
    with folder_written_whole(out) as partial:
        for name in [n for n in names if n == "model_index.json"] + copied:
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, partial / name)
        yield partial
        shutil.rmtree(out, ignore_errors=True)
