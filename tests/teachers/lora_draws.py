"""LoRA files as people bring them, drawn at random, each with the UNet that it must give.

The formulas are written here once more, in float64 and element by element, from the papers; the
names of the tensors are those that the trainers write.
"""

import json
import math
import random
from dataclasses import dataclass, field

import torch
from ldm_names import ldm
from safetensors.torch import save_file

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
PATTERNS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "feed-forward": ("ff.net.0.proj", "ff.net.2"),
    "projection": ("proj_in", "proj_out"),
    "convolution": ("conv1", "conv2", "conv_in", "conv_out", "samplers.0.conv"),
    "shortcut": ("conv_shortcut",),
    "embedding": ("time_emb_proj", "linear_1", "linear_2"),
}


@dataclass
class Drawn:
    """A file to be, and the weights that a UNet has with it."""

    state: dict = field(default_factory=dict)
    expected: dict = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)
    config: dict | None = None
    layers: list = field(default_factory=list)

    def save(self, folder, rng):
        """Write it as a file or a folder; returns what a person gives as LoRA_path."""
        folder.mkdir(exist_ok=True)
        if self.config is not None:
            (folder / "adapter_config.json").write_text(json.dumps(self.config))
            stem = rng.choice(["adapter_model", "renamed"])
        else:
            stem = rng.choice(["pytorch_lora_weights", "a name of its own"])
        state = {
            key: value.clone(memory_format=torch.contiguous_format)
            for key, value in self.state.items()
        }
        if self.metadata or rng.random() < 0.7:
            path = folder / f"{stem}.safetensors"
            save_file(state, path, {"format": "pt", **self.metadata})
        else:
            path = folder / f"{stem}.bin"
            torch.save(state, path)
        return rng.choice([path, folder])


def layers(unet, *kinds):
    """Module paths by kind of layer, or of all kinds."""
    ends = tuple(end for kind in kinds or PATTERNS for end in PATTERNS[kind])
    modules = dict(unet.named_modules())
    return [path for path in modules if path.endswith(ends) and hasattr(modules[path], "weight")]


class Draw:
    """Random tensors and numbers of one file."""

    def __init__(self, unet, seed):
        self.unet, self.rng = unet, random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = self.rng.choice(TYPES)

    def tensor(self, *shape):
        values = torch.randn(*shape, generator=self.generator, dtype=torch.float64) / 2
        return values.to(self.dtype)

    def some(self, paths):
        return self.rng.sample(paths, min(len(paths), self.rng.randint(3, 9)))

    def rank(self):
        return self.rng.randint(1, 6)

    def alpha(self):
        return torch.tensor(self.rng.choice([0.5, 1.0, 3.0, 4.0, 8.0]))


# The changes: each draws a layer's tensors by part, and returns them with W -> W'.


def lora(d, weight, scale=None):
    r = d.rank()
    down, up, alpha = d.tensor(r, *weight.shape[1:]), d.tensor(weight.shape[0], r), d.alpha()
    ones = [1] * (weight.dim() - 2)
    delta = torch.einsum("or,ri->oi", up.double(), down.double().flatten(1)).reshape(weight.shape)
    factor = alpha.item() / r if scale is None else scale(r)
    parts = {"down": down, "up": up.reshape(*up.shape, *ones), "alpha": alpha}
    return parts, lambda w: w + factor * delta


def locon_cp(d, weight):
    if weight.dim() < 4 or weight.shape[-1] == 1:
        return lora(d, weight)
    r, (out, inputs, *kernel) = d.rank(), weight.shape
    down, up, mid = d.tensor(r, inputs, 1, 1), d.tensor(out, r, 1, 1), d.tensor(r, r, *kernel)
    alpha = d.alpha()
    delta = torch.zeros(weight.shape, dtype=torch.float64)
    for a in range(r):
        for b in range(r):
            pair = torch.outer(up[:, a].double().flatten(), down[b].double().flatten())
            delta += pair[:, :, None, None] * mid[a, b].double()
    parts = {"down": down, "up": up, "mid": mid, "alpha": alpha}
    return parts, lambda w: w + alpha.item() / r * delta


def _tucker(core, a, b):
    """sum_ij core[i, j] a[i, p] b[j, q] for each place of the kernel."""
    return torch.stack(
        [
            torch.stack([a.T @ core[:, :, y, x] @ b for x in range(core.shape[3])], -1)
            for y in range(core.shape[2])
        ],
        -2,
    )


def loha(d, weight):
    r, alpha, parts, halves = d.rank(), d.alpha(), {}, []
    tucker = weight.dim() == 4 and weight.shape[-1] > 1 and d.rng.random() < 0.5
    for i in (1, 2):
        if tucker:
            names = (f"hada_t{i}", f"hada_w{i}_a", f"hada_w{i}_b")
            shapes = ((r, r, *weight.shape[2:]), (r, weight.shape[0]), (r, weight.shape[1]))
        else:
            names = (f"hada_w{i}_a", f"hada_w{i}_b")
            shapes = ((weight.shape[0], r), (r, weight[0].numel()))
        drawn = {name: d.tensor(*shape) for name, shape in zip(names, shapes, strict=True)}
        values = [value.double() for value in drawn.values()]
        halves.append(_tucker(*values) if tucker else values[0] @ values[1])
        parts |= drawn
    delta = (halves[0] * halves[1]).reshape(weight.shape)
    return {**parts, "alpha": alpha}, lambda w: w + alpha.item() / r * delta


def lokr(d, weight):
    r, (out, inputs, *kernel) = d.rank(), weight.shape
    o = d.rng.choice([n for n in (1, 2, 4) if out % n == 0])
    i = d.rng.choice([n for n in (1, 2, 4) if inputs % n == 0])
    small, large = (o, i), (out // o, inputs // i, *kernel)
    alpha, parts, factored = d.alpha(), {}, False
    if d.rng.random() < 0.5:
        parts["lokr_w1"] = d.tensor(*small)
        first = parts["lokr_w1"].double()
    else:
        parts["lokr_w1_a"], parts["lokr_w1_b"] = d.tensor(o, r), d.tensor(r, i)
        first, factored = parts["lokr_w1_a"].double() @ parts["lokr_w1_b"].double(), True
    form = d.rng.choice(["full", "factored", "tucker"])
    if form == "full":
        parts["lokr_w2"] = d.tensor(*large)
        second = parts["lokr_w2"].double()
    elif form == "tucker" and kernel and kernel[0] > 1:
        parts["lokr_t2"] = d.tensor(r, r, *kernel)
        parts["lokr_w2_a"], parts["lokr_w2_b"] = d.tensor(r, large[0]), d.tensor(r, large[1])
        names = ("lokr_t2", "lokr_w2_a", "lokr_w2_b")
        second, factored = _tucker(*(parts[name].double() for name in names)), True
    else:
        parts["lokr_w2_a"] = d.tensor(large[0], r)
        parts["lokr_w2_b"] = d.tensor(r, math.prod(large[1:]))
        second = (parts["lokr_w2_a"].double() @ parts["lokr_w2_b"].double()).reshape(large)
        factored = True
    delta = torch.zeros(weight.shape, dtype=torch.float64)
    for a in range(o):
        for b in range(i):
            block = delta[a * large[0] : (a + 1) * large[0], b * large[1] : (b + 1) * large[1]]
            block.copy_(first[a, b] * second)
    scale = alpha.item() / r if factored else 1.0  # LyCORIS: alpha goes with factors only
    return {**parts, "alpha": alpha}, lambda w: w + scale * delta


def full(d, weight):
    diff = d.tensor(*weight.shape)
    return {"diff": diff}, lambda w: w + diff.double()


def dora(inner, axis):
    """Weight-decomposed: each row (axis 0) or column (axis 1) is given a length."""

    def draw(d, weight):
        parts, change = inner(d, weight)
        length = d.tensor(weight.shape[axis]).abs() + 1
        shape = [-1 if dim == axis else 1 for dim in range(weight.dim())]

        def decomposed(w):
            v = change(w).movedim(axis, 0)
            rows = [row / row.norm() * m for row, m in zip(v, length.double(), strict=True)]
            return torch.stack(rows).movedim(0, axis)

        return {**parts, "dora_scale": length.reshape(shape)}, decomposed

    return draw


# The names: (module path, part) -> key.

KOHYA = {"down": "lora_down.weight", "up": "lora_up.weight", "mid": "lora_mid.weight"}
PEFT = {"down": "lora_A.weight", "up": "lora_B.weight", "dora_scale": "lora_magnitude_vector"}
MIDDLE = {"down": "lora.down.weight", "up": "lora.up.weight"}


def _underscores(path):
    return path.replace(".", "_")


def _processor(path, part):
    head, _, name = path.removesuffix(".0").rpartition(".")
    suffix = part if part == "alpha" else f"{part}.weight"
    return f"{head}.processor.{name}_lora.{suffix}"


NAMES = {
    "kohya": lambda p, part: f"lora_unet_{_underscores(p)}.{KOHYA.get(part, part)}",
    "kohya, LDM": lambda p, part: f"lora_unet_{_underscores(ldm(p))}.{KOHYA.get(part, part)}",
    "LyCORIS": lambda p, part: f"lycoris_{_underscores(p)}.{KOHYA.get(part, part)}",
    "ComfyUI": lambda p, part: f"diffusion_model.{ldm(p)}.{KOHYA.get(part, part)}",
    "ComfyUI, A and B": lambda p, part: f"diffusion_model.{ldm(p)}.{PEFT.get(part, part)}",
    "original": lambda p, part: f"model.diffusion_model.{ldm(p)}.{KOHYA.get(part, part)}",
    "diffusers": lambda p, part: f"unet.{p}.{PEFT.get(part, part)}",
    "diffusers, network alone": lambda p, part: f"{p}.{PEFT.get(part, part)}",
    "diffusers 0.22": lambda p, part: f"unet.{p}.{MIDDLE.get(part, 'lora.' + part)}",
    "diffusers 0.14": _processor,
    "diffusers 0.17": lambda p, part: f"unet.{_processor(p, part)}",
    "PEFT": lambda p, part: f"base_model.model.{p}.{PEFT.get(part, part)}",
    "PEFT, named": lambda p, part: f"base_model.model.{p}.{PEFT.get(part, part)}".replace(
        "lora_A.", "lora_A.default."
    ).replace("lora_B.", "lora_B.default."),
}


def blank(d):
    """A file without tensors, which leaves the UNet as it is."""
    return Drawn(expected={name: value.double() for name, value in d.unet.state_dict().items()})


def draw_file(d, change, names, kinds=()):
    """A file of ``change`` over some layers of ``kinds``, under one of ``names``."""
    drawn, name = blank(d), NAMES[d.rng.choice(names)]
    for path in d.some(layers(d.unet, *kinds)):
        weight = drawn.expected[f"{path}.weight"]
        add(drawn, path, *change(d, weight), name)
    return drawn


def drawn_lora(d, *kinds):
    """A file of kohya's."""
    return draw_file(d, lora, ("kohya",), kinds)


def add(drawn, path, parts, changed, name):
    drawn.layers.append(path)
    drawn.state |= {name(path, part): value for part, value in parts.items()}
    drawn.expected[f"{path}.weight"] = changed(drawn.expected[f"{path}.weight"])
