"""How the cases of ``rivals_official.safetensors`` are read; as ``family_cases``."""

import torch
from check import SCHEDULE, _part, _unet
from family_cases import Case, Recorded, Tensors, _evaluated, _teacher, _text, _views
from torch import Tensor, nn

from threestudio_asd.distill.guidance import convert_threestudio_sds_scale
from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.noise_fields import FieldNoise
from threestudio_asd.distill.noising import NoisyBatch, Views
from threestudio_asd.guidance.step import DistillationStep
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.unet import FrozenUNet


class Shares(Recorded):
    """Uniform numbers of each item's own."""

    def __init__(self, *normals: Tensor, uniforms: Tensor) -> None:
        super().__init__(*normals)
        self.uniforms = uniforms

    def uniform(self, n: int, device: torch.device) -> Tensor:
        return self.uniforms


class OtherUNet(nn.Module):
    """The second UNet as a critic with a prompt of its own."""

    prediction_type, schedule = "epsilon", SCHEDULE

    def __init__(self, weights: Tensors, prompt: Tensor) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.net, self.prompt = FrozenUNet(_unet(_part(weights, "critic")), SCHEDULE), prompt

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.one * self.net.predict(x_t, t, Condition(self.prompt))

    def draw_camera_dropout(self) -> bool:
        return False


def _fixed(noise: Tensor):
    """A field of one noise."""

    def field(x0: Tensor, views: Views) -> FieldNoise:
        return FieldNoise(noise.expand_as(x0), torch.ones_like(x0[:, :1], dtype=torch.bool))

    return field


def _two(x: Tensors):
    return _text(x | {"noise": x["latents"]}, null="uncond", cond="cond")


def _scales(case: Case, *scales: float) -> list[float]:
    return [convert_threestudio_sds_scale(s, case.get("perp_neg", False)) for s in scales]


def _jsd(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    scale, inversion_scale = _scales(case, case["guidance_scale"], case["inversion_guidance_scale"])
    step = DistillationStep(METHODS.get("jsd"), _teacher(case, weights))
    keys = ("inversion_n_steps", "inversion_eta", "jsd_scale")
    settings = step.defaults | {key: float(case[key]) for key in keys}
    settings["inversion_guidance_scale"] = inversion_scale
    *inversion, last = x["noise"]
    draws = Recorded(last, *inversion, uniform=case["uniform_draw"])
    noisy = step.noisy(x["latents"], x["t"], _views(1), _two(x), settings, draws, scale)
    found, grad = _evaluated(step, x["latents"], _two(x), noisy, scale, settings=settings)
    said = found.predictions
    targets = {name: said.x0(noisy.extras[name]) for name in ("once", "twice")}
    # Ours is the difference that SDI's loss has; the code's sums two losses of the same gradient.
    return {"x_t": noisy.x_t, "loss_grad": grad, **targets}


def _sim(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    critic = OtherUNet(weights, x["embed_critic"])
    step = DistillationStep(METHODS.get("sim"), _teacher(case, weights), critic)
    latents = x["latents"].clone().requires_grad_()
    noisy = NoisyBatch.of(SCHEDULE, latents, x["t"], x["noise"])
    (scale,) = _scales(case, case["guidance_scale"])
    found = step.evaluate(latents, _two(x), noisy, scale)
    grad = torch.autograd.grad(found.loss, latents)[0]
    return {"loss": found.loss.detach(), "loss_grad": grad}


def _cds(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    options = {"field": _fixed(x["noise"][None]), "weighting": case["weighting"]}
    step = DistillationStep(METHODS.get("cds"), _teacher(case, weights), **options)
    (scale,) = _scales(case, case["guidance_scale"])
    gaps = x["t"] - x["to"] - step.defaults["cds_gap"]
    uniforms = (gaps + 0.5) / step.defaults["cds_spread"]
    draws = Shares(torch.zeros_like(x["latents"]), uniforms=uniforms)
    views = _views(len(x["latents"]))
    noisy = step.noisy(x["latents"], x["to"], views, _two(x), None, draws, scale)
    found, grad = _evaluated(step, x["latents"], _two(x), noisy, scale)
    return {"grad": found.grad, "loss": found.loss.detach(), "loss_grad": grad}


def _dsd(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    step = DistillationStep(METHODS.get("dsd"), _teacher(case, weights), field=_fixed(x["noise"]))
    scale, source_scale = _scales(case, case["guidance_scale"], 1.0)
    settings = step.defaults | {"dsd_source_scale": source_scale}
    draws = Recorded(torch.zeros_like(x["latents"]), uniform=case["uniform_draw"])
    noisy = step.noisy(x["latents"], x["t"], _views(1), _two(x), settings, draws, scale)
    found, grad = _evaluated(step, x["latents"], _two(x), noisy, scale, settings=settings)
    return {"loss": found.loss.detach(), "loss_grad": grad}


#: What reads the cases of a method.
READ = {"jsd": _jsd, "sim": _sim, "cds": _cds, "dsd": _dsd}
