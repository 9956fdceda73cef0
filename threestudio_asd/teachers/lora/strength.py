"""How strongly a LoRA was trained to act: where a file, or the folder around it, states it.

alpha / r of Hu et al. 2021, or alpha / sqrt(r) of Kalajdzievski 2023 (rank-stabilised LoRA). kohya
and LyCORIS write alpha beside each layer; PEFT writes it into adapter_config.json, diffusers into
the file's metadata.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from threestudio_asd.errors import UserError

#: PEFT's kinds of adapters that we add to a weight.
ADAPTERS = ("LORA", "LOHA", "LOKR")
_CONFIG = "adapter_config.json"
_METADATA = "lora_adapter_metadata"
# What a configuration may set without a say in W + scale * change, or with one that we read.
_READ = {"r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"}
_READ |= {"init_lora_weights", "peft_type"}
_HARMLESS = {
    *("base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("auto_mapping", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "lora_dropout", "rank_dropout", "module_dropout", "rank_dropout_scale"),
    *("fan_in_fan_out", "megatron_core", "runtime_config", "eva_config", "qalora_group_size"),
    *("use_effective_conv2d", "decompose_both", "decompose_factor", "init_weights"),
    # These add tensors to the file, which are read or named one by one.
    *("bias", "lora_bias", "modules_to_save", "ensure_weight_tying"),
}
# Starts that leave the model's weights as they are; the others move them, so that the same
# matrices mean another change.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


class Unclear(ValueError):
    """The strength that a file and its surroundings state cannot be relied on."""


class Strength:
    """alpha / r of each layer of a file.

    Args:
        config: PEFT's settings, if the file or its folder has them.
        metadata: Of the file, as kohya's trainer writes it.
    """

    def __init__(self, config: Mapping[str, Any] | None, metadata: Mapping[str, str]) -> None:
        self.config = config
        self.decomposed = bool(config and config.get("use_dora"))
        arguments = _json(metadata.get("ss_network_args", "{}")) or {}
        self._kohya = {**arguments, **metadata}
        keys = ("rs_lora", "use_rslora", "rslora")
        self._stabilised = any(str(self._kohya.get(key)).lower() in ("true", "1") for key in keys)

    def __call__(self, path: str, rank: int | None, alpha: float | None) -> float:
        """The factor of a layer's change.

        Args:
            path: The layer's module path.
            alpha: As the file states it for this layer.

        Raises:
            Unclear: Two statements disagree, or what is stated can be read in two ways.
        """
        stated = None if self.config is None else self._by_config(path, rank)
        if rank is None and stated is None:  # LyCORIS scales LoKr by its decomposed factors only
            if self._stabilised:  # then it trained with sqrt(r) and reads with 1
                raise Unclear(f"LoKr with two full factors ({path}) and rank-stabilised scaling")
            return 1.0
        if alpha is None:
            return self._by_metadata(rank) if stated is None else stated
        own = alpha / rank if stated is None else alpha / self._divisor(path, rank)
        if stated is not None and not math.isclose(own, stated, rel_tol=1e-3):
            raise Unclear(
                f"alpha beside {path} says {own:g}, the configuration of the adapter {stated:g}"
            )
        return self._stabilised_alpha(alpha, rank) if self._stabilised else own

    def describe(self, layers: Iterable[Mapping[str, Any]]) -> str:
        """Where it is stated, in a line."""
        if self.config is not None:
            stabilised = ", rank-stabilised" if self.config.get("use_rslora") else ""
            alpha = self.config.get("lora_alpha", self.config.get("alpha"))
            patterns = " and per layer" if self.config.get("alpha_pattern") else ""
            return f"alpha {alpha}{patterns} in PEFT's settings{stabilised}"
        alphas = {float(parts["alpha"].flatten()[0]) for parts in layers if "alpha" in parts}
        if alphas:
            numbers = sorted({min(alphas), max(alphas)})
            return "alpha " + " to ".join(f"{alpha:g}" for alpha in numbers) + " beside the layers"
        noted = self._kohya.get("ss_network_alpha")
        return f"alpha {noted} noted by the trainer" if noted else "none stated: alpha is the rank"

    def _by_config(self, path: str, rank: int | None) -> float:
        alpha = _pattern(self.config, "alpha_pattern", path)
        if alpha is None:
            alpha = self.config.get("lora_alpha", self.config.get("alpha"))
        if _number(alpha) is None:
            raise Unclear(f"the configuration of the adapter states no alpha ({alpha})")
        return float(alpha) / self._divisor(path, rank)

    def _divisor(self, path: str, rank: int | None) -> float:
        if rank is None:  # two full factors, which PEFT scales all the same
            noted = _pattern(self.config, "rank_pattern", path) or self.config.get("r")
            rank = _number(noted)
            if not rank:
                raise Unclear(f"the configuration of the adapter states no rank ({noted})")
        return math.sqrt(rank) if self.config.get("use_rslora") else float(rank)

    def _by_metadata(self, rank: int) -> float:
        """A layer without alpha: the trainer's note, else 1, as in files before alpha."""
        noted = self._kohya.get("ss_network_alpha")
        if noted in (None, "None"):
            if self._stabilised:
                raise Unclear("the metadata says rank-stabilised and the file states no alpha")
            return 1.0
        alpha = _number(noted)
        if alpha is None or "conv_dim" in self._kohya or "conv_alpha" in self._kohya:
            # "Dynamic", of a file that was resized, or one number of two.
            raise Unclear(f"the metadata says that alpha is {noted}, and a layer has none")
        return alpha / (math.sqrt(rank) if self._stabilised else rank)

    def _stabilised_alpha(self, alpha: float, rank: int) -> float:
        """LyCORIS wrote the given alpha at first, and alpha * sqrt(r) since July 2024."""
        given = [_number(self._kohya.get(key)) for key in ("ss_network_alpha", "conv_alpha")]
        root = math.sqrt(rank)
        raw, scaled = (
            any(g is not None and math.isclose(alpha, g * f, rel_tol=1e-2) for g in given)
            for f in (1.0, root)
        )
        if rank == 1 or raw != scaled:
            return alpha / (root if raw else rank)
        raise Unclear(
            "the metadata says rank-stabilised, and not whether the alpha beside the layers "
            "includes it; save it with alpha * sqrt(r), and without rs_lora in ss_network_args"
        )


def read_config(file: Path, metadata: Mapping[str, str], wanted: bool) -> dict[str, Any] | None:
    """The settings of PEFT that hold for ``file``: in its metadata, or beside it if ``wanted``.

    Raises:
        UserError: They cannot be read, or set something that changes the formula and is not
            supported.
    """
    config, source = None, f"{_METADATA} of {file}"
    if _METADATA in metadata:
        config = _json(metadata[_METADATA])
        if isinstance(config, dict):
            config = _of_unet(config)
    elif wanted and (path := file.parent / _CONFIG).is_file():
        config, source = _json(path.read_text("utf-8", errors="replace")), str(path)
    else:
        return None
    if not isinstance(config, dict):
        raise UserError(f"The settings of the adapter in {source} cannot be read as JSON.")
    if config:
        _check(config, source)
    return config or None


def _of_unet(config: dict[str, Any]) -> dict[str, Any]:
    """A pipeline's settings carry the name of their part, a single network's do not."""
    if any(key.startswith(("unet.", "text_encoder")) for key in config):
        own = {key: value for key, value in config.items() if key.startswith("unet.")}
        return {key.removeprefix("unet."): value for key, value in own.items()}
    return config


def _check(config: Mapping[str, Any], source: str) -> None:
    kind = str(config.get("peft_type", "LORA")).rpartition(".")[2].upper()
    if kind not in ADAPTERS:
        raise UserError(
            f"{source} is of an adapter of kind {kind}; supported are {', '.join(ADAPTERS)}."
        )
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise UserError(
            f"{source} says init_lora_weights: {start}, which moved the model's weights before "
            "training, so that the file alone does not give the change; save the adapter with "
            "PEFT's path_initial_model_for_weight_conversion."
        )
    for key, value in config.items():
        if key not in _READ | _HARMLESS and value not in (None, False, "", [], {}):
            raise UserError(f"{source} sets {key}: {value}, which is not supported.")


def _pattern(config: Mapping[str, Any], key: str, path: str) -> Any:
    """The value of a per-layer pattern; as in PEFT, the first that the layer's path ends in."""
    for pattern, value in (config.get(key) or {}).items():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", path)
        except re.error as error:
            raise Unclear(f"{key} has '{pattern}', which is no pattern: {error}") from error
        if found:
            return value
    return None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
