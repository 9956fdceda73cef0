"""The change of a layer's weight and bias by its tensors in a LoRA file.

Sources of the formulas: Hu et al. 2021 (LoRA); Yeh et al. 2023, "Navigating Text-to-Image
Customization" (LyCORIS: LoCon with its CP decomposition, LoHa, LoKr, full differences); Liu et al.
2024 (DoRA). Checked against PEFT and LyCORIS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Parts = dict[str, Tensor]


class Misfit(ValueError):
    """The tensors are for another layer than this one; says in what."""


class Broken(ValueError):
    """The tensors of a layer give no change, whatever the layer; says why."""


@dataclass(frozen=True)
class Family:
    """A way to factorise a change: its name, and how its parts are put together."""

    name: str
    build: Callable[[Parts], tuple[Tensor, int | None]]
    """Takes its parts out of a layer's; returns the unscaled change (out, in, ...) and the rank
    that alpha is divided by, None if nothing is factorised."""
    scaled: bool = True
    """Whether alpha scales it."""


def _lora(parts: Parts) -> tuple[Tensor, int]:
    down, up, mid = parts.pop("down"), parts.pop("up"), parts.pop("mid", None)
    rank = down.shape[0]
    if mid is None:
        return (up.flatten(1) @ down.flatten(1)).unflatten(1, down.shape[1:]), rank
    return torch.einsum("oi...,po,iq->pq...", mid, up.flatten(1), down.flatten(1)), rank


def _loha(parts: Parts) -> tuple[Tensor, int]:
    rank = parts["hada_w1_b"].shape[0]
    halves = [
        _product(*(parts.pop(f"hada_w{i}_{side}") for side in "ab"), parts.pop(f"hada_t{i}", None))
        for i in (1, 2)
    ]
    return halves[0] * halves[1], rank


def _lokr(parts: Parts) -> tuple[Tensor, int | None]:
    rank = None
    factors = []
    for i in (1, 2):
        factor = parts.pop(f"lokr_w{i}", None)
        if factor is None:
            a, b = parts.pop(f"lokr_w{i}_a"), parts.pop(f"lokr_w{i}_b")
            rank, factor = b.shape[0], _product(a, b, parts.pop(f"lokr_t{i}", None))
        factors.append(factor)
    small, large = (factor.contiguous() for factor in factors)  # as torch.kron needs them
    return torch.kron(small.reshape(*small.shape, *[1] * (large.dim() - 2)), large), rank


def _product(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """a b; with a Tucker core (r, r, kernel), a and b are (r, out) and (r, in)."""
    return a @ b if core is None else torch.einsum("ij...,ip,jq->pq...", core, a, b)


def _full(parts: Parts) -> tuple[Tensor, None]:
    return parts.pop("diff"), None


def _norm(parts: Parts) -> tuple[Tensor, None]:
    return parts.pop("w_norm"), None


#: The part that shows a family -> the family.
FAMILIES: Mapping[str, Family] = {
    "down": Family("LoRA", _lora),
    "up": Family("LoRA", _lora),
    "hada_w1_a": Family("LoHa", _loha),
    "lokr_w1": Family("LoKr", _lokr),
    "lokr_w1_a": Family("LoKr", _lokr),
    "diff": Family("full difference", _full, scaled=False),
    "w_norm": Family("full difference", _norm, scaled=False),
}
_BIASES = ("diff_b", "b_norm")
_NUMBERS = ("alpha", "scalar")


def name(parts: Parts) -> str:
    """The kind of a layer's change, for messages."""
    family = next((family.name for part, family in FAMILIES.items() if part in parts), "bias")
    decomposed = "dora_scale" in parts or "magnitude" in parts
    family += " with CP decomposition" if "mid" in parts else ""
    return f"weight-decomposed {family}" if decomposed else family


def rank(parts: Parts) -> int | None:
    """The rank of a layer's change; None if it has none."""
    shown = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
    return next((parts[part].shape[0] for part in shown if part in parts), None)


def changed(
    parts: Parts,
    weight: Tensor,
    bias: Tensor | None,
    scale: Callable[[int | None, float | None], float],
) -> tuple[Tensor, Tensor | None]:
    """The weight (out, in, ...) and bias (out) of a layer after its change, in float32.

    Args:
        parts: The layer's tensors in the file, by part (``names.split``).
        scale: (rank, the file's alpha for this layer) -> alpha / rank.

    Raises:
        Broken: Tensors are missing, too many, do not fit each other, or are no finite numbers.
        Misfit: The layer has another shape.
    """
    parts = {
        part: value if part in _NUMBERS else _matrix(part, value) for part, value in parts.items()
    }
    numbers = {part: _number(part, parts.pop(part)) for part in _NUMBERS if part in parts}
    family = next((family for part, family in FAMILIES.items() if part in parts), None)
    weight, strength = weight.float(), 1.0
    if family is not None:
        delta, r = _built(family, parts)
        if family.scaled:
            strength = scale(r, numbers.pop("alpha", None)) * numbers.pop("scalar", 1.0)
        weight = _decomposed(weight + _shaped(strength * delta, weight), parts)
    bias = _biased(bias, parts, strength)
    if left := [*parts, *numbers]:
        raise Broken(f"nothing in it goes with {', '.join(left)}")
    return weight, bias


def _built(family: Family, parts: Parts) -> tuple[Tensor, int | None]:
    try:
        delta, r = family.build(parts)
    except KeyError as error:
        raise Broken(f"it lacks {error.args[0]}") from error
    except (RuntimeError, IndexError) as error:
        raise Broken(f"its tensors do not fit each other: {error}") from error
    if r == 0:
        raise Broken("its rank is 0")
    return delta, r


def _number(part: str, value: Tensor) -> float:
    if value.numel() != 1:
        raise Broken(f"{part} is not one number")
    return value.item()


def _matrix(part: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise Broken(f"{part} is of type {value.dtype}: quantised LoRAs are not supported")
    value = value.float()
    if not value.isfinite().all():
        raise Broken(f"{part} holds values that are not finite numbers")
    return value


def _shaped(delta: Tensor, weight: Tensor) -> Tensor:
    """``delta`` in the weight's shape, if these are the same but for ones and flattened kernels."""
    flat = delta.dim() == 2 and delta.shape[1] == weight[0].numel()
    same = _essential(delta.shape) == _essential(weight.shape)
    if delta.shape[:1] != weight.shape[:1] or not (flat or same):
        raise Misfit(
            f"it is for weights of {_times(delta.shape)}, the layer's are {_times(weight.shape)}"
        )
    return delta.to(weight.device).reshape(weight.shape)


def _essential(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:2]) + tuple(n for n in shape[2:] if n != 1)


def _times(shape: torch.Size) -> str:
    return " x ".join(str(n) for n in shape)


def _decomposed(weight: Tensor, parts: Parts) -> Tensor:
    """DoRA: direction of the changed weight, length learned, per output or (LyCORIS) per input."""
    if "magnitude" in parts:  # PEFT's, always per output
        length, axis = parts.pop("magnitude"), 0
    elif "dora_scale" in parts:
        length = parts.pop("dora_scale")
        axis = int(length.dim() > 1 and length.shape[0] == 1 and length.shape[1] == weight.shape[1])
    else:
        return weight
    if length.numel() != weight.shape[axis]:
        raise Broken(f"its {length.numel()} lengths are not one for each of {_times(weight.shape)}")
    dims = [dim for dim in range(weight.dim()) if dim != axis]
    length = length.to(weight.device).reshape(
        [-1 if dim == axis else 1 for dim in range(weight.dim())]
    )
    norm = torch.linalg.vector_norm(weight, dim=dims, keepdim=True)
    return weight * (length / norm.clamp_min(torch.finfo(norm.dtype).tiny))


def _biased(bias: Tensor | None, parts: Parts, strength: float) -> Tensor | None:
    found = {part: parts.pop(part) for part in _BIASES if part in parts}
    if "up_bias" in parts:
        found["up_bias"] = strength * parts.pop("up_bias")
    for part, delta in found.items():
        if bias is None:
            raise Misfit(f"{part} is for a bias, and the layer has none")
        if delta.numel() != bias.numel():
            raise Misfit(f"{part} has {delta.numel()} numbers, the layer's bias {bias.numel()}")
        bias = bias.float() + delta.to(bias.device).reshape(bias.shape)
    return bias
