"""Reading LoRA files: where in a folder they lie, what they are, their tensors by layer."""

import re
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.lora import change, names
from threestudio_asd.teachers.weights import read_tensors

#: What is merged, in words.
SUPPORTED = (
    "LoRA, LoCon (CP-decomposed too), LoHa, LoKr and full differences, each weight-decomposed "
    "(DoRA) or not, as written by kohya, LyCORIS, PEFT, diffusers and ComfyUI"
)
#: Names that libraries give the file in a folder of theirs.
_NAMES = ("pytorch_lora_weights", "adapter_model")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
# What a key of a file that is something else looks like -> what the file is.
_FOREIGN = {
    r"(^|[._])oft_(blocks|R|diag|s)|^oft_unet_": "an OFT or BOFT (orthogonal finetuning)",
    r"\.boft_": "a BOFT (orthogonal finetuning)",
    r"\.[ab][12]\.weight$": "a GLoRA",
    r"\.on_input$|\.ia3_l": "an (IA)^3",
    r"\.lambda_layer$": "a T-LoRA, whose rank depends on the timestep",
    r"\.vera_lambda_": "a VeRA",
    r"\.lora_E(\.|$)|\.ranknum": "an AdaLoRA with its singular values",
    r"\.(hra_u|bone_|miss_|randlora_|fourierft_|shira_|c3a_|waveft_|ln_tuning)": "an adapter of "
    "PEFT other than LoRA, LoHa and LoKr",
    r"_custom_diffusion": "Custom Diffusion's attention weights",
    r"^(image_proj|ip_adapter)\.|_ip\.weight$": "an IP-Adapter",
    r"^lora_controlnet|^control_model\.|^controlnet_": "a ControlNet or Control-LoRA",
    r"motion_modules?\.": "a motion module of AnimateDiff",
    r"^(unet|text_encoder):\d+:": "a file of lora_diffusion, whose layers have numbers, not names",
    r"^(lora_unet_|transformer\.|diffusion_model\.)?(double_blocks|single_blocks|joint_blocks|"
    r"transformer_blocks|single_transformer_blocks)[._]": "made for a transformer (Flux, Stable "
    "Diffusion 3 and the like), not for a UNet",
}


def find_file(path: Path) -> Path:
    """The file of a LoRA: ``path`` itself, or the one that the folder ``path`` holds.

    In a folder that holds none, one level below: PEFT gives each network or adapter its own folder.

    Raises UserError if there is none, or more than one that could be meant.
    """
    if not path.is_dir():
        return path
    found = _candidates(path)
    if not found and (path / "unet").is_dir():
        found = _candidates(path / "unet")
    if not found:
        found = [
            f for folder in sorted(path.iterdir()) if folder.is_dir() for f in _candidates(folder)
        ]
    if not found:
        raise UserError(f"The folder {path} holds no LoRA file; check LoRA_path.")
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in found)
        raise UserError(f"The folder {path} holds several files ({names}); set LoRA_path to one.")
    return found[0]


def _candidates(folder: Path) -> list[Path]:
    """The files in ``folder`` that may be a LoRA; one, if it has a name that libraries give."""
    files = sorted(f for f in folder.glob("*") if f.suffix in _SUFFIXES and f.is_file())
    for name in _NAMES:
        for suffix in _SUFFIXES:
            if folder / f"{name}{suffix}" in files:
                return [folder / f"{name}{suffix}"]
    # What lies there in two formats is meant as safetensors.
    return [f for f in files if f.suffix == _SUFFIXES[0]] or files


def has_config(file: Path, state: dict[str, Tensor]) -> bool:
    """Whether PEFT's configuration beside ``file`` is meant for it, and not for a neighbour."""
    if file.stem == "adapter_model" or any(key.startswith("base_model.") for key in state):
        return True
    return [other for other in file.parent.iterdir() if other.suffix in _SUFFIXES] == [file]


def tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file; pickles may give a number where a tensor is meant."""
    state = read_tensors(file)
    for key, value in state.items():
        if isinstance(value, (int, float)):
            state[key] = torch.tensor(value)
        elif not isinstance(value, Tensor):
            kind = "learned words (textual inversion)" if key == "string_to_param" else "no tensor"
            raise UserError(f"{file} holds {kind} in '{key}'; supported are {SUPPORTED}.")
    return state


def expect_alpha(file: Path, layers: dict[str, change.Parts]) -> None:
    if lacking := [name for name, parts in layers.items() if "alpha" not in parts]:
        raise UserError(
            f"{file} is an adapter of PEFT, which keeps alpha in adapter_config.json; put that "
            f"file beside it ({some(lacking)} has no alpha of its own)."
        )


def by_layer(file: Path, state: dict[str, Tensor]) -> tuple[dict[str, change.Parts], list[str]]:
    """(the parts by the layer's name, the keys that are no part)."""
    layers: dict[str, change.Parts] = defaultdict(dict)
    unknown = []
    for key, value in state.items():
        found = names.split(key)
        if found is None:
            unknown.append(key)
            continue
        name, part = found
        if part in layers[name]:
            raise UserError(
                f"The LoRA {file} has {part} of {name} twice: several adapters in one file are not "
                "supported, save one of them."
            )
        layers[name][part] = value
    return dict(layers), unknown


def refuse_foreign(file: Path, state: dict[str, Tensor]) -> None:
    """Raises UserError if the file is another thing than a change of a UNet's weights."""
    for pattern, kind in _FOREIGN.items():
        if key := next((key for key in state if re.search(pattern, key)), None):
            raise UserError(f"{file} is {kind} ({key}); supported are {SUPPORTED}.")
    if state and not any(names.split(key) for key in state):
        if len(state) < 8 and all(value.dim() < 3 for value in state.values()):
            raise UserError(
                f"{file} holds {some(list(state))}, like learned words (textual inversion); "
                f"supported are {SUPPORTED}."
            )
        raise UserError(
            f"{file} holds whole weights ({some(list(state))}), not a change of weights; a model "
            "of your own goes into ckpt_path or pretrained_model_name_or_path, not into LoRA_path."
        )


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(names: list[str]) -> str:
    """The first name, and how many follow."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
