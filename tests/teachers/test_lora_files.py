"""LoRA files change every tensor of a UNet as their formula says, or are refused by name."""

import copy
import json
import math
import random
import shutil

import pytest
import torch
from ldm_names import ldm
from lora_draws import (
    NAMES,
    Draw,
    add,
    blank,
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
from threestudio_asd.teachers.lora.fuse import fuse_lora
from threestudio_asd.teachers.lora.names import LayerNames
from threestudio_asd.tiny.random_sd import random_unet

DRAWS = 7  # of each kind


def small_unet(linear, seed):
    torch.manual_seed(seed)
    return random_unet(use_linear_projection=linear)


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


@pytest.mark.parametrize("kind", APPLIED)
def test_every_tensor_follows_the_formula(models, tmp_path, kind):
    first = DRAWS * list(APPLIED).index(kind)
    for seed in range(first, first + DRAWS):
        unet, before = restored(models[seed % 2])
        drawn = APPLIED[kind](draw := Draw(unet, seed))
        fuse_lora(unet, drawn.save(tmp_path / str(seed), draw.rng))
        wrong = differing(unet, drawn.expected, rtol=1e-5, atol=1e-5)
        assert wrong == [], f"draw {seed} of {kind}"
        for path in drawn.layers:
            assert not torch.equal(unet.get_submodule(path).weight, before[f"{path}.weight"])


def differing(unet, expected, **tolerances):
    """Names of the tensors that are not as expected."""
    state = unet.state_dict()
    assert set(state) == set(expected)
    if torch.allclose(
        *(flat([values[name] for name in state]) for values in (state, expected)), **tolerances
    ):
        return []
    pairs = {name: (value.double(), expected[name].double()) for name, value in state.items()}
    return [name for name, pair in pairs.items() if not torch.allclose(*pair, **tolerances)]


def flat(values):
    return torch.cat([value.flatten() for value in values]).double()


def test_there_are_enough_draws():
    assert DRAWS * len(APPLIED) >= 200


# Files that are refused: what is done to a good one, and what the message must name


def drawn_lora(d, *kinds):
    return draw_file(d, lora, ("kohya",), kinds)


def key_of(drawn, part, d):
    return d.rng.choice(sorted(key for key in drawn.state if key.endswith(part)))


def with_tensor(key, *shape):
    def change(d, drawn):
        drawn.state[key] = d.tensor(*shape)

    return change


def without(part):
    return lambda d, drawn: drawn.state.pop(key_of(drawn, part, d))


def replaced(part, value):
    def change(d, drawn):
        key = key_of(drawn, part, d)
        drawn.state[key] = value(drawn.state[key])

    return change


def noted(**metadata):
    return lambda d, drawn: drawn.metadata.update(metadata)


def twice(d, drawn):
    path = d.rng.choice(drawn.layers)
    drawn.state |= {
        NAMES["kohya, LDM"](path, part): drawn.state[NAMES["kohya"](path, part)]
        for part in ("down", "up", "alpha")
    }


def two_adapters(d, drawn):
    key = key_of(drawn, "lora_down.weight", d)
    drawn.state[key.replace("lora_down", "lora_A.second")] = drawn.state[key]


def full_lokr(d, drawn):
    drawn.state |= {f"{LAYER}.lokr_w1": d.tensor(2, 2), f"{LAYER}.lokr_w2": d.tensor(8, 8, 1, 1)}
    drawn.state = {key: value for key, value in drawn.state.items() if key.startswith(LAYER)}
    drawn.metadata = {"ss_network_args": '{"rs_lora": true}'}


def lengths(d, drawn):
    drawn.state[key_of(drawn, "lora_up.weight", d).replace("lora_up.weight", "dora_scale")] = (
        d.tensor(5)
    )


def undecomposed(d, drawn):
    drawn.config = peft_config(use_dora=True)
    for key in [key for key in drawn.state if key.endswith("alpha")]:
        del drawn.state[key]


def settings(**values):
    def change(d, drawn):
        renamed = draw_file(d, without_alpha, ("PEFT",))
        drawn.state, drawn.config = renamed.state, peft_config(**values)

    return change


def forgotten_config(d, drawn):
    drawn.state = draw_file(d, without_alpha, ("PEFT",)).state


def disagreeing(d, drawn):
    drawn.state = draw_file(d, lora, ("PEFT",)).state
    drawn.config = peft_config(lora_alpha=777)


def only(key, *shape):
    def change(d, drawn):
        drawn.state = {key: d.tensor(*shape)}

    return change


def whole_model(d, drawn):
    drawn.state = {f"model.diffusion_model.{ldm('conv_in')}.weight": d.tensor(16, 4, 3, 3)}


LAYER = "lora_unet_down_blocks_0_attentions_0_proj_in"
REFUSED = {
    "a tensor of an unknown kind": (
        with_tensor(f"{LAYER}.mystery", 2),
        r"unknown kind \(.*mystery",
    ),
    "a whole weight beside the layers": (
        with_tensor("unet.conv_in.weight", 16, 4, 3, 3),
        r"whole weights beside its changes \(unet.conv_in.weight",
    ),
    "a layer that is not there": (
        with_tensor("lora_unet_down_blocks_7_proj_in.diff", 4, 4),
        "no layer lora_unet_down_blocks_7_proj_in",
    ),
    "a layer of SDXL": (
        with_tensor("lora_unet_input_blocks_8_1_attn2_to_k.lora_down.weight", 4, 2048),
        "no layer lora_unet_input_blocks_8_1_attn2_to_k.*made for SDXL.*SDXL cannot be a teacher",
    ),
    "down without up": (without("lora_up.weight"), "lacks up"),
    "up without down": (without("lora_down.weight"), "lacks down"),
    "another rank": (replaced("lora_up.weight", lambda up: up[:, :0]), "do not fit each other"),
    "another width": (replaced("lora_down.weight", lambda down: down[:, 1:]), "the layer's are"),
    "another height": (replaced("lora_up.weight", lambda up: up[1:]), "the layer's are"),
    "no numbers": (replaced("lora_up.weight", lambda up: up / 0.0), "not finite"),
    "integers": (replaced("lora_up.weight", lambda up: up.to(torch.int8)), "quantised"),
    "a resize that lost an alpha": (
        lambda d, drawn: (
            noted(ss_network_alpha="Dynamic")(d, drawn),
            without(".alpha")(d, drawn),
        ),
        "strength .* unclear: the metadata says that alpha is Dynamic",
    ),
    "LoKr of full factors, rank-stabilised": (full_lokr, "two full factors"),
    "two alphas in a layer": (
        replaced(".alpha", lambda _: torch.ones(2)),
        "alpha is not one number",
    ),
    "an alpha alone": (with_tensor(f"{LAYER}.alpha", 1), "nothing in it goes with alpha"),
    "a bias where none is": (
        with_tensor(
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.diff_b", 16
        ),
        "the layer has none",
    ),
    "lengths of nothing": (with_tensor("lora_unet_conv_in.dora_scale", 16), "goes with dora_scale"),
    "lengths of another number": (lengths, "5 lengths are not one for each"),
    "a layer twice": (twice, "twice, under two names"),
    "two adapters": (two_adapters, "twice: several adapters"),
    "no rank-stabilised scale for sure": (
        noted(ss_network_args='{"rs_lora": "True"}'),
        "strength .* unclear.*rank-stabilised",
    ),
    "PEFT without its settings": (forgotten_config, "adapter_config.json"),
    "PEFT's settings against alpha": (disagreeing, "strength .* unclear: alpha beside"),
    "PEFT with PiSSA": (settings(init_lora_weights="pissa"), "init_lora_weights: pissa"),
    "PEFT with OLoRA": (settings(init_lora_weights="olora"), "init_lora_weights: olora"),
    "PEFT's future": (
        settings(use_new_formula=True),
        "use_new_formula: True, which is not supported",
    ),
    "PEFT of another kind": (settings(peft_type="BOFT"), "of kind BOFT"),
    "PEFT without alpha": (settings(lora_alpha=None), "states no alpha"),
    "PEFT with a broken pattern": (settings(alpha_pattern={"(": 3}), "is no pattern"),
    "DoRA without its lengths": (undecomposed, "use_dora"),
    "OFT": (with_tensor(f"{LAYER}.oft_blocks", 2, 4, 4), "OFT"),
    "GLoRA": (with_tensor(f"{LAYER}.a1.weight", 2, 4), "GLoRA"),
    "(IA)^3": (with_tensor(f"{LAYER}.on_input", 1), r"\(IA\)\^3"),
    "T-LoRA": (with_tensor(f"{LAYER}.lambda_layer", 1, 4), "T-LoRA"),
    "VeRA": (with_tensor("base_model.model.conv_in.vera_lambda_b", 4), "VeRA"),
    "AdaLoRA": (with_tensor("base_model.model.conv_in.lora_E", 4), "AdaLoRA"),
    "Custom Diffusion": (
        with_tensor("a.attn2.processor.to_k_custom_diffusion.weight", 4, 4),
        "Custom Diffusion",
    ),
    "an IP-Adapter": (only("ip_adapter.1.to_k_ip.weight", 4, 4), "IP-Adapter"),
    "a Control-LoRA": (with_tensor("lora_controlnet", 0), "Control-LoRA"),
    "a motion module": (only("down_blocks.0.motion_modules.0.proj_in.weight", 4, 4), "AnimateDiff"),
    "numbered layers": (only("unet:0:up", 4, 4), "lora_diffusion"),
    "Flux": (only("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", 4, 4), "transformer"),
    "Stable Diffusion 3": (
        only("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", 4, 4),
        "transformer",
    ),
    "learned words": (only("emb_params", 2, 24), "textual inversion"),
    "a whole model": (whole_model, "whole weights.*ckpt_path"),
    "a text encoder's part alone": (
        only("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 2, 24),
        "no part for the UNet",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_applied_is_named(models, tmp_path, kind):
    change, message = REFUSED[kind]
    for seed in range(2):
        unet, _ = restored(models[seed])
        drawn = drawn_lora(draw := Draw(unet, seed), "feed-forward", "attention")
        change(draw, drawn)
        with pytest.raises(UserError, match=message) as raised:
            fuse_lora(unet, drawn.save(tmp_path / str(seed), draw.rng))
        assert str(tmp_path) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_layer_is_changed_in_the_teachers_precision(models, tmp_path):
    unet, _ = restored(models[0])
    unet = unet.to(torch.bfloat16)
    try:
        drawn = drawn_lora(Draw(unet, 0))
        fuse_lora(unet, drawn.save(tmp_path, random.Random(0)))
        assert unet.dtype == torch.bfloat16
        assert differing(unet, drawn.expected, rtol=2**-8, atol=0.0) == []  # rounded once
    finally:
        unet.float()


# Other writers of such files, as they are


def random_adapter(network, seed):
    """Give the adapter's tensors values, also those that begin as zero."""
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        if any(part in name for part in ("lora_", "hada_", "lokr_")):
            value = torch.randn_like(parameter)
            parameter.data = value.abs() + 1 if "magnitude" in name else value / 3


PATTERNS = {
    "rank_pattern": {"to_q": 2, "conv1": 5},
    "alpha_pattern": {"to_k": 1, "mid_block.*conv2": 7},
}
TARGETS = ["to_q", "to_k", "to_out.0", "proj_in", "net.2", "conv1", "conv2", "conv_shortcut"]
CONFIGS = {
    "plain": ("LoraConfig", {"lora_alpha": 6}),
    "rank-stabilised, patterns": ("LoraConfig", {"lora_alpha": 6, "use_rslora": True, **PATTERNS}),
    "weight-decomposed": ("LoraConfig", {"lora_alpha": 6, "use_dora": True, **PATTERNS}),
    "bias": ("LoraConfig", {"lora_alpha": 6, "lora_bias": True, "target_modules": ["net.2"]}),
    "LoHa": ("LoHaConfig", {"alpha": 6, "use_effective_conv2d": True}),
    "LoKr": ("LoKrConfig", {"alpha": 6, "decompose_both": True, "use_effective_conv2d": True}),
    "LoKr of full factors": ("LoKrConfig", {"alpha": 6, "r": 32}),
}


@pytest.mark.filterwarnings("ignore:.*have invalid shape")  # PEFT's of its own lora_bias
@pytest.mark.parametrize("config", CONFIGS)
def test_pefts_folders_merge_as_peft_merges_them(models, tmp_path, config):
    import peft

    name, options = CONFIGS[config]
    unet, _ = restored(models[0])
    settings = getattr(peft, name)(**{"r": 3, "target_modules": TARGETS, **options})
    network = peft.get_peft_model(copy.deepcopy(unet), settings)
    random_adapter(network, seed=0)
    network.save_pretrained(tmp_path)
    merged = network.merge_and_unload().state_dict()
    fuse_lora(unet, tmp_path)
    assert differing(unet, merged, rtol=1e-5, atol=1e-5) == []


@pytest.mark.parametrize("whole", [False, True])
def test_diffusers_files_merge_as_diffusers_merges_them(models, tmp_path, whole):
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet, _ = restored(models[0])
    network = copy.deepcopy(unet)
    network.add_adapter(LoraConfig(r=3, target_modules=TARGETS, lora_alpha=6, **PATTERNS))
    random_adapter(network, seed=0)
    if whole:  # as a pipeline saves it
        StableDiffusionPipeline.save_lora_weights(
            tmp_path,
            get_peft_model_state_dict(network),
            unet_lora_adapter_metadata=network.peft_config["default"].to_dict(),
        )
    else:
        network.save_lora_adapter(tmp_path)
    network.fuse_lora()
    network.unload_lora()
    fuse_lora(unet, tmp_path)
    assert differing(unet, network.state_dict(), rtol=1e-5, atol=1e-5) == []


# Where files lie


def test_a_folder_gives_its_only_file(models, tmp_path):
    unet, _ = restored(models[0])
    drawn = drawn_lora(Draw(unet, 0))
    save_file(
        {k: v.contiguous() for k, v in drawn.state.items()}, tmp_path / "red mug v2.safetensors"
    )
    (tmp_path / "README.md").write_text("a LoRA")
    fuse_lora(unet, tmp_path)
    assert differing(unet, drawn.expected, rtol=1e-5, atol=1e-5) == []
    shutil.copy(tmp_path / "red mug v2.safetensors", tmp_path / "red mug v1.safetensors")
    with pytest.raises(
        UserError, match=r"red mug v1.safetensors, red mug v2.safetensors.*LoRA_path"
    ):
        fuse_lora(unet, tmp_path)
    with pytest.raises(UserError, match="holds no LoRA file"):
        (tmp_path / "empty").mkdir()
        fuse_lora(unet, tmp_path / "empty")


def test_a_folder_of_networks_or_adapters(models, tmp_path, caplog):
    """PEFT's scripts write unet/ and text_encoder/, PEFT itself a folder by the adapter's name."""
    for folder, texts in (("unet", True), ("my_adapter", False)):
        unet, _ = restored(models[0])
        drawn = APPLIED["PEFT, patterns"](draw := Draw(unet, 0))
        drawn.save(tmp_path / folder, draw.rng)
        if texts:
            draw_file(draw, lora, ("PEFT",)).save(tmp_path / "text_encoder", draw.rng)
        fuse_lora(unet, tmp_path)
        assert differing(unet, drawn.expected, rtol=1e-5, atol=1e-5) == []
        assert ("left out: the folder" in caplog.text) == texts
        caplog.clear()
        shutil.rmtree(tmp_path / folder)
        shutil.rmtree(tmp_path / "text_encoder", ignore_errors=True)


@pytest.mark.parametrize("place", ["_lora.down.weight.alpha", ".alpha"])
def test_alpha_under_another_name_of_its_layer(models, tmp_path, place):
    """As diffusers names the alphas that it takes out of kohya's files."""
    unet, _ = restored(models[0])
    drawn = draw_file(Draw(unet, 0), lora, ("diffusers 0.17",), ("attention",))
    for key in [key for key in drawn.state if key.endswith(".alpha")]:
        value = drawn.state.pop(key)
        drawn.state[key.replace("_lora.alpha", place)] = value
    fuse_lora(unet, drawn.save(tmp_path, random.Random(0)))
    assert differing(unet, drawn.expected, rtol=1e-5, atol=1e-5) == []


def test_settings_of_a_neighbour_are_not_taken(models, tmp_path):
    """A download folder: PEFT's adapter with its settings, and kohya's file that states its own."""
    unet, _ = restored(models[0])
    drawn = drawn_lora(Draw(unet, 0))
    (tmp_path / "adapter_config.json").write_text(json.dumps(peft_config(lora_alpha=77)))
    other = draw_file(Draw(unet, 1), without_alpha, ("PEFT",)).state
    for name, state in (("adapter_model", other), ("kohya", drawn.state)):
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / f"{name}.safetensors")
    fuse_lora(unet, tmp_path / "kohya.safetensors")
    assert differing(unet, drawn.expected, rtol=1e-5, atol=1e-5) == []


def test_that_a_text_encoders_part_is_left_out_is_said(models, tmp_path, caplog):
    unet, _ = restored(models[0])
    drawn = drawn_lora(draw := Draw(unet, 0))
    layer = "text_model_encoder_layers_0_mlp_fc1"
    for prefix in ("lora_te", "lora_te1", "text_encoder", "base_model.model"):
        drawn.state[f"{prefix}_{layer}.lora_down.weight"] = draw.tensor(2, 24)
    drawn.state["bundle_emb.mug.string_to_param.*"] = draw.tensor(1, 24)
    fuse_lora(unet, drawn.save(tmp_path, draw.rng))
    assert differing(unet, drawn.expected, rtol=1e-5, atol=1e-5) == []
    assert "left out: 5 tensors for the text encoder" in caplog.text


# Names at the real sizes

COMMON = {"sample_size": 64, "layers_per_block": 2, "block_out_channels": (320, 640, 1280, 1280)}
SIZES = {
    "1.5": {**COMMON, "cross_attention_dim": 768, "attention_head_dim": 8},
    "2.1": {
        **COMMON,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
}


@pytest.mark.parametrize("size", SIZES)
def test_original_names_are_those_of_diffusers_converter(size):
    """Its converter of checkpoints takes each tensor from the LDM name that we give its layer."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SIZES[size])
    names = LayerNames(unet)
    paths = [path for path, m in unet.named_modules() if getattr(m, "weight", None) is not None]
    original = {path: names.original(path) for path in paths}
    assert len(set(original.values())) == len(paths)
    numbers = {name: torch.tensor(i) for i, name in enumerate(unet.state_dict())}
    checkpoint = {
        "model.diffusion_model.{}.{}".format(*renamed(name, original)): number
        for name, number in numbers.items()
    }
    assert convert_ldm_unet_checkpoint(checkpoint, dict(unet.config)) == numbers
    for path in paths:
        for name in (path, original[path]):
            for spelt in (
                f"unet.{name}",
                f"diffusion_model.{name}",
                f"base_model.model.{name}",
                name,
            ):
                assert names.find(spelt) == path
            assert names.find(f"lora_unet_{name.replace('.', '_')}") == path


def test_a_lora_of_another_stable_diffusion_is_told(tmp_path):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SIZES["2.1"])
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    state = {f"{name}.lora_down.weight": torch.ones(4, 768)}
    state[f"{name}.lora_up.weight"] = torch.ones(320, 4)
    save_file(state, tmp_path / "lora.safetensors")
    message = "weights of 320 x 768, the layer's are 320 x 1024; it seems made for .* 1.x"
    with pytest.raises(UserError, match=message):
        fuse_lora(unet, tmp_path / "lora.safetensors")


def renamed(tensor, layers):
    layer, _, kind = tensor.rpartition(".")
    return layers[layer], kind
