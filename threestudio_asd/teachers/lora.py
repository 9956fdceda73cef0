"""LoRA files of a user's, whoever trained them, merged into a teacher's UNet.

The teacher's weights become W + (alpha / r) B A exactly, or what the file's own container says
(``lora_change``), or the file is refused by name: every tensor is in the change, belongs to a text
encoder and is said to be left out, or is named in an error. We read the files ourselves, because
the loaders of the libraries scale some layers by another's alpha and drop what they do not know.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from threestudio_asd import homes
from threestudio_asd.errors import UserError
from threestudio_asd.teachers import lora_change, lora_names
from threestudio_asd.teachers.lora_strength import Strength, Unclear, read_config
from threestudio_asd.teachers.weights import read_metadata, read_tensors

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
# How many numbers per word cross-attention reads -> the models.
TEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}


@dataclass(frozen=True)
class LoRAFile:
    """A file's tensors by layer, before it is known for which network.

    Raised by :meth:`read`: UserError if there is no such file, or it is no LoRA for a UNet.
    """

    path: Path
    layers: dict[str, lora_change.Parts]
    """The layer's name in the file -> part (``lora_names.split``) -> tensor."""
    text: int
    """How many tensors are for a text encoder, and left out."""
    strength: Strength
    metadata: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> "LoRAFile":
        """From a file, or from a folder as diffusers or PEFT write one."""
        file = find_file(homes.expanded(path))
        state, metadata = _tensors(file), read_metadata(file)
        _refuse_foreign(file, state)
        config = read_config(file, metadata, _has_config(file, state))
        text = [key for key in state if lora_names.is_text(key)]
        layers, unknown = _by_layer(file, {key: state[key] for key in state if key not in text})
        if unknown:
            raise UserError(
                f"The LoRA {file} holds tensors of an unknown kind ({_some(unknown)}); supported "
                f"are {SUPPORTED}."
            )
        if not layers:
            raise UserError(f"The LoRA {file} has no part for the UNet; check LoRA_path.")
        if config is None and any(key.startswith("base_model.") for key in state):
            _expect_alpha(file, layers)
        return cls(file, layers, len(text), Strength(config, metadata), metadata)

    def describe(self) -> str:
        """What it is, in a line."""
        kinds = Counter(lora_change.name(parts) for parts in self.layers.values())
        text = ", ".join(f"{kind} of {count} layers" for kind, count in kinds.most_common())
        ranks = sorted({r for parts in self.layers.values() if (r := lora_change.rank(parts))})
        if ranks:
            text += f", rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "")
        types = {
            str(value.dtype).removeprefix("torch.")
            for parts in self.layers.values()
            for part, value in parts.items()
            if part != "alpha"
        }
        return f"{text}, {' and '.join(sorted(types))}"

    def made_for(self) -> str | None:
        """The model that it seems to be made for; None if nothing in the file tells."""
        widths = {TEXT_WIDTHS.get(width) for width in self._text_widths()} - {None}
        return widths.pop() if len(widths) == 1 else None

    def merge(self, unet: nn.Module) -> int:
        """Change the weights of ``unet``; returns how many layers.

        The change is computed in float32 and rounded once, to the UNet's precision. On the meta
        device nothing is changed, and it is checked that it could be.

        Raises:
            UserError: A layer that the UNet lacks or that has another shape there, tensors that do
                not belong together, or an unclear strength. The UNet may be changed in part then.
        """
        for path, parts in self._places(unet).items():
            module = unet.get_submodule(path)

            def scale(
                family: str, rank: int | None, alpha: float | None, path: str = path
            ) -> float:
                return self.strength(path, family, rank, alpha)

            try:
                if self.strength.decomposed and not {"magnitude", "dora_scale"} & set(parts):
                    raise lora_change.Misfit("it lacks the lengths that use_dora announces")
                weight, bias = lora_change.changed(
                    parts, module.weight.detach(), _bias(module), scale
                )
            except lora_change.Misfit as error:
                raise self._misfit(f"in {path}: {error}") from error
            except Unclear as error:
                raise UserError(
                    f"The strength of the LoRA {self.path} is unclear: {error}."
                ) from error
            module.weight.data.copy_(weight)
            if bias is not None:
                module.bias.data.copy_(bias)
        return len(self.layers)

    def _places(self, unet: nn.Module) -> dict[str, lora_change.Parts]:
        """The parts by module path."""
        names = lora_names.LayerNames(unet)
        places: dict[str, lora_change.Parts] = {}
        missing = []
        for name, parts in self.layers.items():
            path = names.find(name)
            if path is None:
                missing.append(name)
            elif path in places:
                raise UserError(
                    f"The LoRA {self.path} changes the layer {path} twice, under two names; "
                    f"remove one of them ({name})."
                )
            else:
                places[path] = parts
        if missing:
            raise self._misfit(f"it has no layer {_some(missing)}")
        return places

    def _text_widths(self) -> Iterable[int]:
        for name, parts in self.layers.items():
            if re.search(r"attn2[._]to[._][kv]$", name.removesuffix("_lora")):
                down = parts.get("down", parts.get("diff", parts.get("hada_w1_b")))
                if down is not None and down.dim() > 1:
                    yield down.shape[1]

    def _misfit(self, reason: str) -> UserError:
        made_for = f"; it seems made for {model}" if (model := self.made_for()) else ""
        return UserError(
            f"The weights in {self.path} do not fit the unet of the teacher ({reason}{made_for}); "
            "set pretrained_model_name_or_path to the model that they were made for."
        )


def fuse_lora(unet: nn.Module, lora: str | Path) -> None:
    """Merge a LoRA into the weights of ``unet``; that a text encoder's part is left out is said.

    Merged, because the critic's adapter may share the UNet: the teacher is then a plain network,
    and costs nothing more.

    Args:
        lora: A file of any of the ``SUPPORTED`` kinds, or a folder that holds one.

    Raises:
        UserError: It is missing, unreadable, of another kind, or for another architecture.
    """
    file = LoRAFile.read(lora)
    file.merge(unet)
    if file.text:
        logging.getLogger("threestudio_asd").warning(
            f"The LoRA {file.path} changes the UNet; its {file.text} tensors for the text encoder "
            "are left out."
        )


def find_file(path: Path) -> Path:
    """The file of a LoRA: ``path`` itself, or the one that the folder ``path`` holds.

    Raises UserError if there is none, or more than one that could be meant.
    """
    if not path.is_dir():
        return path
    for name in _NAMES:
        for suffix in _SUFFIXES:
            if (path / f"{name}{suffix}").is_file():
                return path / f"{name}{suffix}"
    for suffixes in (_SUFFIXES[:1], _SUFFIXES[1:]):  # what lies there twice is meant as safetensors
        found = sorted(file for file in path.iterdir() if file.suffix in suffixes)
        if len(found) > 1:
            raise UserError(
                f"The folder {path} holds several files ({_some([f.name for f in found])}); set "
                "LoRA_path to one of them."
            )
        if found:
            return found[0]
    if (path / "unet").is_dir():
        return find_file(path / "unet")
    raise UserError(f"The folder {path} holds no LoRA file; check LoRA_path.")


def _has_config(file: Path, state: dict[str, Tensor]) -> bool:
    """Whether PEFT's configuration beside ``file`` is meant for it, and not for a neighbour."""
    if file.stem == "adapter_model" or any(key.startswith("base_model.") for key in state):
        return True
    return [other for other in file.parent.iterdir() if other.suffix in _SUFFIXES] == [file]


def _tensors(file: Path) -> dict[str, Tensor]:
    """What a file holds; pickles may give a number where a tensor is meant."""
    state = read_tensors(file)
    for key, value in state.items():
        if isinstance(value, (int, float)):
            state[key] = torch.tensor(value)
        elif not isinstance(value, Tensor):
            kind = "learned words (textual inversion)" if key == "string_to_param" else "no tensor"
            raise UserError(f"{file} holds {kind} in '{key}'; supported are {SUPPORTED}.")
    return state


def _expect_alpha(file: Path, layers: dict[str, lora_change.Parts]) -> None:
    if lacking := [name for name, parts in layers.items() if "alpha" not in parts]:
        raise UserError(
            f"{file} is an adapter of PEFT, which keeps alpha in adapter_config.json; put that "
            f"file beside it ({_some(lacking)} has no alpha of its own)."
        )


def _by_layer(
    file: Path, state: dict[str, Tensor]
) -> tuple[dict[str, lora_change.Parts], list[str]]:
    """(the parts by the layer's name, the keys that are no part)."""
    layers: dict[str, lora_change.Parts] = defaultdict(dict)
    unknown = []
    for key, value in state.items():
        found = lora_names.split(key)
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


def _refuse_foreign(file: Path, state: dict[str, Tensor]) -> None:
    """Raises UserError if the file is another thing than a change of a UNet's weights."""
    for pattern, kind in _FOREIGN.items():
        if key := next((key for key in state if re.search(pattern, key)), None):
            raise UserError(f"{file} is {kind} ({key}); supported are {SUPPORTED}.")
    if state and not any(lora_names.split(key) for key in state):
        if len(state) < 8 and all(value.dim() < 3 for value in state.values()):
            raise UserError(
                f"{file} holds {_some(list(state))}, like learned words (textual inversion); "
                f"supported are {SUPPORTED}."
            )
        raise UserError(
            f"{file} holds whole weights ({_some(list(state))}), not a change of weights; a model "
            "of your own goes into ckpt_path or pretrained_model_name_or_path, not into LoRA_path."
        )


def _bias(module: nn.Module) -> Tensor | None:
    bias = getattr(module, "bias", None)
    return None if bias is None else bias.detach()


def _some(names: list[str]) -> str:
    """The first name, and how many follow."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
