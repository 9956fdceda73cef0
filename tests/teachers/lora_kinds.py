"""Kinds of LoRA files that are applied: each draws a file with the weights that it must give."""

import json
import math

import torch
from lora_draws import NAMES, add, blank, dora, draw_file, full, layers, locon_cp, loha, lokr, lora

UNDERSCORED = ("kohya", "kohya, LDM", "LyCORIS", "ComfyUI", "original")
DIFFUSERS = ("diffusers", "diffusers, network alone", "diffusers 0.22")


def of(change, names=UNDERSCORED, kinds=()):
    return lambda d: draw_file(d, change, names, kinds)


def without_alpha(d, weight):
    parts, changed = lora(d, weight, scale=lambda r: 1.0)
    del parts["alpha"]
    return parts, changed


def mixed(d, weight):
    return d.rng.choice([lora, locon_cp, loha, lokr, full, dora(lora, 0)])(d, weight)


def peft_config(**settings):
    return {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": False, **settings}


def patterned(d, rslora=False, names=("PEFT", "PEFT, named")):
    """alpha of PEFT's settings, other ones for some layers; returns (file, settings)."""
    alphas = {"attn1.to_q": 2, r"conv\d": 5.5, "proj_in": 1}
    settings = peft_config(
        lora_alpha=d.rng.choice([2, 8, 16]),
        alpha_pattern=alphas,
        rank_pattern={"to_q": 2},
        use_rslora=rslora,
    )

    def alpha(path):
        found = {"attn1.to_q": 2, "conv1": 5.5, "conv2": 5.5, "proj_in": 1}
        fits = [value for end, value in found.items() if path.endswith("." + end)]
        return fits[0] if fits else settings["lora_alpha"]

    drawn, name = blank(d), NAMES[d.rng.choice(names)]
    root = math.sqrt if rslora else float
    for path in d.some(layers(d.unet)):
        weight = drawn.expected[f"{path}.weight"]
        parts, changed = lora(d, weight, lambda r, path=path: alpha(path) / root(r))
        del parts["alpha"]
        add(drawn, path, parts, changed, name)
    return drawn, settings


def peft_folder(rslora):
    def draw(d):
        drawn, drawn.config = patterned(d, rslora)
        return drawn

    return draw


def pipeline_metadata(d):
    drawn, settings = patterned(d, d.rng.random() < 0.5, ("diffusers",))
    settings = {f"unet.{key}": value for key, value in settings.items()}
    settings |= {"text_encoder.lora_alpha": 77, "text_encoder.r": 1}
    drawn.metadata = {"lora_adapter_metadata": json.dumps(settings)}
    return drawn


def network_metadata(d):
    drawn, settings = patterned(d, d.rng.random() < 0.5, ("diffusers, network alone",))
    drawn.metadata = {"lora_adapter_metadata": json.dumps(settings)}
    return drawn


def peft_dora(d):
    def change(d, weight):
        parts, changed = dora(lambda d, w: lora(d, w, lambda r: 8 / r), 0)(d, weight)
        del parts["alpha"]
        if weight.dim() == 4:  # PEFT writes (1, out, 1, 1), and for a linear layer (out)
            parts["dora_scale"] = parts["dora_scale"].transpose(0, 1)
        else:
            parts["dora_scale"] = parts["dora_scale"].flatten()
        return parts, changed

    drawn = draw_file(d, change, ("PEFT",))
    drawn.config = peft_config(use_dora=True)
    return drawn


def rank_stabilised(raw):
    """LyCORIS with rs_lora: alpha is written as given (early 2024) or times sqrt(r) (since)."""

    def draw(d):
        def change(d, weight):
            parts, changed = lora(d, weight, lambda r: 3.0 / math.sqrt(r))
            r = parts["down"].shape[0]
            parts["alpha"] = torch.tensor(3.0 if raw else 3.0 * math.sqrt(r))
            return parts, changed

        drawn = draw_file(d, change, ("kohya",))
        drawn.metadata = {"ss_network_args": '{"rs_lora": "True"}', "ss_network_alpha": "3.0"}
        return drawn

    return draw


def noted_alpha(d):
    """No alpha beside the layers, and the trainer's note of it."""

    def change(d, weight):
        parts, changed = lora(d, weight, lambda r: 3.0 / r)
        del parts["alpha"]
        return parts, changed

    drawn = draw_file(d, change, ("kohya",))
    drawn.metadata = {"ss_network_alpha": "3.0"}
    return drawn


def scalar(d, weight):
    parts, changed = lora(d, weight)
    factor = d.tensor(1)[0]
    return {**parts, "scalar": factor}, lambda w: w + factor.double() * (changed(w) - w)


def resized(d):
    """Another alpha and rank for each layer, and the notes that a dynamic resize leaves."""
    drawn = draw_file(d, lora, ("kohya",))
    drawn.metadata = {"ss_network_alpha": "Dynamic", "ss_network_dim": "Dynamic"}
    return drawn


def other_kernels(d, weight):
    """1 x 1 kernels for linear layers and matrices for 1 x 1 convolutions."""
    parts, changed = lora(d, weight)
    for part in ("down", "up"):
        value = parts[part]
        parts[part] = value.flatten(1) if value.dim() > 2 else value[:, :, None, None]
    return parts, changed


def eight_bits(d, weight):
    d.dtype = torch.float32
    parts, _ = lora(d, weight)
    small = {part: value.to(torch.float8_e4m3fn) for part, value in parts.items()}
    small["alpha"] = parts["alpha"]
    delta = small["up"].double().flatten(1) @ small["down"].double().flatten(1)
    scale = parts["alpha"].item() / parts["down"].shape[0]
    return small, lambda w: w + scale * delta.reshape(weight.shape)


def biases(d):
    """Full differences of weights and biases, of layers and of norms."""
    drawn, name = blank(d), NAMES[d.rng.choice(["kohya", "kohya, LDM"])]
    norms = [path for path, _ in d.unet.named_modules() if path.endswith("norm1")]
    for part, bias, paths in (
        ("diff", "diff_b", layers(d.unet, "convolution", "embedding")),
        ("w_norm", "b_norm", norms),
    ):
        for path in d.some(paths):
            parts, changed = full(d, drawn.expected[f"{path}.weight"])
            shift = d.tensor(d.unet.get_submodule(path).bias.numel())
            add(drawn, path, {part: parts["diff"], bias: shift}, changed, name)
            drawn.expected[f"{path}.bias"] += shift.double()
    return drawn


def peft_bias(d):
    """PEFT's lora_bias: a bias of B, scaled as B A is."""
    drawn = draw_file(
        d, lambda d, w: without_alpha(d, w), ("PEFT",), ("convolution", "embedding", "feed-forward")
    )
    for path in drawn.layers:
        up = drawn.state[f"base_model.model.{path}.lora_B.weight"]
        bias = drawn.state[f"base_model.model.{path}.lora_B.bias"] = d.tensor(up.shape[0])
        r = up.shape[1]
        before = d.unet.get_submodule(path).weight.double()
        delta = drawn.expected[f"{path}.weight"] - before
        drawn.expected[f"{path}.weight"] = before + 8 / r * delta
        drawn.expected[f"{path}.bias"] += 8 / r * bias.double()
    drawn.config = peft_config(lora_bias=True)
    return drawn


APPLIED = {
    "kohya, alpha and rank of each layer": of(lora, ("kohya",)),
    "kohya, attention": of(lora, ("kohya",), ("attention",)),
    "kohya, feed-forward": of(lora, ("kohya",), ("feed-forward",)),
    "kohya, projections": of(lora, ("kohya",), ("projection",)),
    "kohya, convolutions": of(lora, ("kohya",), ("convolution", "shortcut")),
    "kohya, embeddings": of(lora, ("kohya",), ("embedding",)),
    "kohya, resized": resized,
    "1 x 1 kernels and matrices": of(
        other_kernels, UNDERSCORED, ("projection", "shortcut", "attention")
    ),
    "eight-bit floats": of(eight_bits, ("kohya",)),
    "kohya before alpha": of(without_alpha, ("kohya",)),
    "kohya, alpha noted by the trainer": noted_alpha,
    "LDM names": of(lora, ("kohya, LDM", "ComfyUI", "original", "ComfyUI, A and B")),
    "LyCORIS' own prefix": of(lora, ("LyCORIS",)),
    "LyCORIS, scalar": of(scalar, ("kohya", "LyCORIS")),
    "LyCORIS, rank-stabilised": rank_stabilised(raw=False),
    "LyCORIS, rank-stabilised with raw alpha": rank_stabilised(raw=True),
    "LoCon, CP-decomposed": of(locon_cp),
    "LoHa": of(loha),
    "LoKr": of(lokr),
    "full differences": of(full),
    "biases and norms": biases,
    "DoRA per output": of(dora(lora, 0)),
    "DoRA per input": of(dora(lora, 1)),
    "weight-decomposed LoHa and LoKr": of(
        lambda d, w: dora(d.rng.choice([loha, lokr]), d.rng.choice([0, 1]))(d, w)
    ),
    "several containers in a file": of(mixed),
    "diffusers": of(without_alpha, DIFFUSERS),
    "diffusers with alpha beside the layers": of(lora, DIFFUSERS),
    "diffusers' attention processors": of(
        without_alpha, ("diffusers 0.14", "diffusers 0.17"), ("attention",)
    ),
    "diffusers' attention processors with alpha": of(
        lora, ("diffusers 0.14", "diffusers 0.17"), ("attention",)
    ),
    "diffusers, a pipeline's metadata": pipeline_metadata,
    "diffusers, a network's metadata": network_metadata,
    "PEFT, patterns": peft_folder(rslora=False),
    "PEFT, rank-stabilised": peft_folder(rslora=True),
    "PEFT, weight-decomposed": peft_dora,
    "PEFT, bias": peft_bias,
}
