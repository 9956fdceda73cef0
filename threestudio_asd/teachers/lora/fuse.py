"""LoRA files of a user's, whoever trained them, merged into a teacher's UNet.

The teacher's weights become W + (alpha / r) B A exactly, or what the file's own container says
(:mod:`.change`), or the file is refused by name: every tensor is in the change, belongs to a text
encoder and is said to be left out, or is named in an error. We read the files ourselves, because
the loaders of the libraries scale some layers by another's alpha and drop what they do not know.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from threestudio_asd import homes
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.lora import change
from threestudio_asd.teachers.lora.names import LayerNames, is_text
from threestudio_asd.teachers.lora.reading import (
    SUPPORTED,
    by_layer,
    count,
    expect_alpha,
    find_file,
    has_config,
    refuse_foreign,
    some,
    tensors,
)
from threestudio_asd.teachers.lora.strength import Strength, Unclear, read_config
from threestudio_asd.teachers.weights import read_metadata

SDXL = "SDXL"
#: How many numbers per word cross-attention reads -> the models.
TEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: SDXL}


@dataclass(frozen=True)
class LoRAFile:
    """A file's tensors by layer, before it is known for which network.

    Raised by :meth:`read`: UserError if there is no such file, or it is no LoRA for a UNet.
    """

    path: Path
    layers: dict[str, change.Parts]
    """The layer's name in the file -> part (``names.split``) -> tensor."""
    left_out: str
    """Description of the parts for a text encoder, which are left out; or empty."""
    strength: Strength
    metadata: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> "LoRAFile":
        """From a file, or from a folder as diffusers or PEFT write one."""
        file = find_file(homes.expanded(path))
        state, metadata = tensors(file), read_metadata(file)
        refuse_foreign(file, state)
        config = read_config(file, metadata, has_config(file, state))
        text = {key for key in state if is_text(key)}
        layers, unknown = by_layer(file, {key: state[key] for key in state if key not in text})
        if unknown:
            whole = all(key.endswith((".weight", ".bias")) for key in unknown)
            kind = "whole weights beside its changes" if whole else "tensors of an unknown kind"
            raise UserError(
                f"The LoRA {file} holds {kind} ({some(unknown)}); supported are {SUPPORTED}."
            )
        if not layers:
            raise UserError(f"The LoRA {file} has no part for the UNet; check LoRA_path.")
        if config is None and any(key.startswith("base_model.") for key in state):
            expect_alpha(file, layers)
        left_out = f"{count(len(text), 'tensor')} for the text encoder" if text else ""
        if file.parent.name == "unet" and (folder := file.parent.parent / "text_encoder").is_dir():
            left_out = f"the folder {folder}"
        return cls(file, layers, left_out, Strength(config, metadata), metadata)

    def describe(self) -> str:
        """A description in one line."""
        kinds = Counter(change.name(parts) for parts in self.layers.values())
        found = kinds.most_common()
        text = ", ".join(f"{kind} of {count(number, 'layer')}" for kind, number in found)
        ranks = sorted({r for parts in self.layers.values() if (r := change.rank(parts))})
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
        places = self._places(unet)
        for path, parts in places.items():
            module = unet.get_submodule(path)
            try:
                if self.strength.decomposed and not {"magnitude", "dora_scale"} & set(parts):
                    raise change.Broken("it lacks the lengths that use_dora announces")
                scale = partial(self.strength, path)
                weight, bias = change.changed(parts, module.weight.detach(), _bias(module), scale)
            except change.Misfit as error:
                raise self._misfit(f"in {path}: {error}") from error
            except change.Broken as error:
                raise UserError(
                    f"The LoRA {self.path} cannot be applied: in {path}, {error}."
                ) from error
            except Unclear as error:
                raise UserError(
                    f"The strength of the LoRA {self.path} is unclear: {error}."
                ) from error
            module.weight.data.copy_(weight)
            if bias is not None:
                module.bias.data.copy_(bias)
        return len(places)

    def _places(self, unet: nn.Module) -> dict[str, change.Parts]:
        """The parts by module path."""
        names = LayerNames(unet)
        places: dict[str, change.Parts] = {}
        missing = []
        for name, parts in self.layers.items():
            path = names.find(name)
            if path is None:
                missing.append(name)
                continue
            if both := places.get(path, {}).keys() & parts.keys():
                raise UserError(
                    f"The LoRA {self.path} changes the layer {path} twice, under two names "
                    f"({', '.join(sorted(both))} of {name} too); remove one of them."
                )
            places[path] = {**places.get(path, {}), **parts}
        if missing:
            raise self._misfit(f"it has no layer {some(missing)}")
        return places

    def _text_widths(self) -> Iterable[int]:
        for name, parts in self.layers.items():
            if re.search(r"attn2[._]to[._][kv]$", name.removesuffix("_lora")):
                down = parts.get("down", parts.get("diff", parts.get("hada_w1_b")))
                if down is not None and down.dim() > 1:
                    yield down.shape[1]

    def _misfit(self, reason: str) -> UserError:
        model = self.made_for()
        made_for = f"; it seems made for {model}" if model else ""
        advice = "set pretrained_model_name_or_path to the model that they were made for"
        if model == SDXL:
            advice = "SDXL cannot be a teacher, so take a LoRA for Stable Diffusion 1.x or 2.x"
        return UserError(
            f"The weights in {self.path} do not fit the unet of the teacher ({reason}{made_for}); "
            f"{advice}."
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
    if file.left_out:
        logging.getLogger("threestudio_asd").warning(
            f"The LoRA {file.path} changes the UNet alone; left out: {file.left_out}."
        )


def _bias(module: nn.Module) -> Tensor | None:
    bias = getattr(module, "bias", None)
    return None if bias is None else bias.detach()
