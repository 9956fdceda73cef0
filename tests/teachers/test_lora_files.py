"""LoRA files change every tensor of a UNet as their formula says, or are refused by name."""

import json
import math

import pytest
import torch
from ldm_names import ldm
from lora_draws import (
    NAMES,
    TYPES,
    Draw,
    Drawn,
    add,
    dora,
    draw_file,
    full,
    layers,
    locon_cp,
    loha,
    lokr,
    lora,
)
from safetensors.torch import save_file

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.lora import LoRAFile, fuse_lora
from threestudio_asd.teachers.lora_names import LayerNames

DRAWS = 7  # of each kind


def small_unet(linear, seed):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
        use_linear_projection=linear,
    )


@pytest.fixture(scope="module")
def models():
    """Projections of transformers by convolution, as in Stable Diffusion 1, and linear, as in 2;
    each with its weights as they were."""
    unets = [small_unet(linear=False, seed=0), small_unet(linear=True, seed=1)]
    return [(unet, {n: v.clone() for n, v in unet.state_dict().items()}) for unet in unets]


def restored(model):
    unet, state = model
    unet.load_state_dict(state)
    return unet, state


@pytest.fixture
def unet(models):
    return restored(models[0])[0]


# Files that are applied: what draws them


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

    drawn, name = Drawn(), NAMES[d.rng.choice(names)]
    drawn.expected = {key: value.double() for key, value in d.unet.state_dict().items()}
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


def biases(d):
    """Full differences with biases, and of norms."""
    drawn = draw_file(d, full, ("kohya", "kohya, LDM"), ("convolution", "embedding"))
    for path in drawn.layers:
        add_bias(d, drawn, path, f"lora_unet_{path.replace('.', '_')}.diff_b")
    for path in d.some([path for path, _ in d.unet.named_modules() if path.endswith("norm1")]):
        name = f"lora_unet_{path.replace('.', '_')}"
        drawn.state[f"{name}.w_norm"] = d.tensor(d.unet.get_submodule(path).weight.numel())
        drawn.expected[f"{path}.weight"] += drawn.state[f"{name}.w_norm"].double()
        add_bias(d, drawn, path, f"{name}.b_norm")
    return drawn


def add_bias(d, drawn, path, key):
    key = key if key.rpartition(".")[0] + ".diff" in drawn.state or "norm" in key else None
    if key is None:  # the file has LDM's names
        key = f"lora_unet_{ldm(path).replace('.', '_')}.diff_b"
    drawn.state[key] = d.tensor(d.unet.get_submodule(path).bias.numel())
    drawn.expected[f"{path}.bias"] += drawn.state[key].double()


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


@pytest.mark.parametrize("kind", APPLIED)
def test_every_tensor_follows_the_formula(models, tmp_path, kind):
    first = DRAWS * list(APPLIED).index(kind)
    for seed in range(first, first + DRAWS):
        unet, before = restored(models[seed % 2])
        drawn = APPLIED[kind](draw := Draw(unet, seed))
        fuse_lora(unet, drawn.save(tmp_path / str(seed), draw.rng))
        wrong = differing(unet, drawn.expected, rtol=1e-5, atol=1e-5)
        assert wrong == [], f"draw {seed} of {kind}"
        changed = differing(unet, before, rtol=0.0, atol=0.0)
        assert {f"{path}.weight" for path in drawn.layers} <= set(changed)


def differing(unet, expected, **tolerances):
    """Names of the tensors that are not as expected."""
    state = unet.state_dict()
    assert set(state) == set(expected)
    return [
        name
        for name, value in expected.items()
        if not torch.allclose(state[name].to(value.dtype), value, **tolerances)
    ]


def test_there_are_enough_draws():
    assert DRAWS * len(APPLIED) >= 200
