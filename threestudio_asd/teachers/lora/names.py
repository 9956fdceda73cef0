"""Which layer of a UNet, and which part of its change, a key of a LoRA file means.

Trainers write one layer under many names: diffusers' or Stable Diffusion's own ("LDM") module
names, with dots or underscores, behind a prefix or none, and older layouts of diffusers put the
attention's processor in between. Here every name of a layer leads to its module path.
"""

import re
from collections.abc import Iterator

from torch import nn

#: Layers of a residual block: diffusers' name -> LDM's.
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
#: Layers outside of the blocks.
_STEM = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
# What stands before a layer of the UNet, dots as underscores; several may follow each other.
_PREFIXES = re.compile(
    r"^(?:base_model_model_|model_diffusion_model_|diffusion_model_|lora_unet_|lycoris_|unet_)+"
)
_TEXT = re.compile(
    r"^(?:base_model_model_|lycoris_|lora_)*"
    r"(?:text_encoders?_|text_model_|te\d?_|cond_stage_model_|conditioner_|clip_[gl]_|bundle_emb_)"
)
# A part of a change -> what its key has behind the layer's name; also an adapter's name, as in
# lora_A.default.weight, may stand before the last word.
_PARTS = {
    "up_bias": r"\.lora_(?:B|up)(?:\.[^.]+)?\.bias",
    "down": r"(?:\.lora_(?:down|A)|[._]lora\.down|\.lora_linear_layer\.down)",
    "up": r"(?:\.lora_(?:up|B)|[._]lora\.up|\.lora_linear_layer\.up)",
    "mid": r"\.lora_mid",
    "alpha": r"(?:[._]lora|\.lora_linear_layer)?(?:\.down\.weight)?\.(?:lora_)?alpha",
    "magnitude": r"\.lora_magnitude_vector",
    **{name: rf"\.{name}" for name in ("dora_scale", "scalar", "diff", "diff_b")},
    **{name: rf"\.{name}" for name in ("w_norm", "b_norm")},
    **{f"hada_{name}": rf"\.hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{
        f"lokr_{name}": rf"\.lokr_{name}"
        for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
    },
}
_END = r"(?:\.(?!weight$|bias$)[^.]+)?(?:\.weight)?$"
_KEY = re.compile(
    r"^(?P<layer>.+?)(?:"
    + "|".join(f"(?P<{part}>{pattern})" for part, pattern in _PARTS.items())
    + f"){_END}"
)


def is_text(key: str) -> bool:
    """Whether a tensor belongs to a text encoder or is a learned word's embedding."""
    return bool(_TEXT.match(_flat(key)))


def split(key: str) -> tuple[str, str] | None:
    """(a layer's name, the part of its change that the tensor is); None if it is no such part.

    Parts are named as in LyCORIS, but for "down" and "up" (PEFT's A and B), "mid" of a
    CP-decomposed convolution, "up_bias" and "magnitude" of PEFT.
    """
    match = _KEY.match(key)
    if match is None:
        return None
    return match["layer"], next(part for part in _PARTS if match[part] is not None)


class LayerNames:
    """The layers of a UNet by all their names.

    Args:
        unet: A ``UNet2DConditionModel``; its weights are not looked at.
    """

    def __init__(self, unet: nn.Module) -> None:
        self._blocks = dict(_blocks(unet))
        self._paths: dict[str, str] = {}
        for path, module in unet.named_modules():
            if getattr(module, "weight", None) is None:
                continue
            names = {path, self.original(path)}
            if path.endswith(".to_out.0"):  # as diffusers' older attention processors call it
                names.add(path.removesuffix(".0"))
            self._paths |= dict.fromkeys(map(_flat, names), path)

    def find(self, name: str) -> str | None:
        """The module path of the layer with this name, None if there is none."""
        return self._paths.get(_PREFIXES.sub("", _flat(name.replace(".processor.", "."))))

    def original(self, path: str) -> str:
        """Stable Diffusion's own name of the layer that diffusers calls ``path``."""
        parts = path.split(".")
        heads = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
        block = next((head for head in heads if head in self._blocks), None)
        if block is None:
            return path
        rest = path.removeprefix(block)
        if ".resnets." in block:
            rest = f".{_RESNET.get(rest[1:], rest[1:])}"
        return self._blocks[block] + rest


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _blocks(unet: nn.Module) -> Iterator[tuple[str, str]]:
    """(diffusers' path, LDM's path) of the parts whose insides correspond layer by layer."""
    yield from _STEM.items()
    n = 1
    for i, block in enumerate(unet.down_blocks):
        for j, _ in enumerate(block.resnets):
            yield f"down_blocks.{i}.resnets.{j}", f"input_blocks.{n}.0"
            yield f"down_blocks.{i}.attentions.{j}", f"input_blocks.{n}.1"
            n += 1
        if block.downsamplers:
            yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{n}.0.op"
            n += 1
    for j in range(2):
        yield f"mid_block.resnets.{j}", f"middle_block.{2 * j}"
    yield "mid_block.attentions.0", "middle_block.1"
    n = 0
    for i, block in enumerate(unet.up_blocks):
        for j, _ in enumerate(block.resnets):
            yield f"up_blocks.{i}.resnets.{j}", f"output_blocks.{n}.0"
            yield f"up_blocks.{i}.attentions.{j}", f"output_blocks.{n}.1"
            n += 1
        slot = 2 if hasattr(block, "attentions") else 1
        if block.upsamplers:
            yield f"up_blocks.{i}.upsamplers.0", f"output_blocks.{n - 1}.{slot}"
