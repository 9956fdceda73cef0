"""How the cases of ``family_official.safetensors`` are read: names and conventions become this
package's, and one step of its guidance does the rest. No method is computed here.
"""

import torch
from check import SCHEDULE, _grad_norm, _networks, _part, _unet
from torch import Tensor

from threestudio_asd.distill.critic_step import CriticSettings
from threestudio_asd.distill.guidance import (
    classifier_free_guidance,
    convert_threestudio_sds_scale,
)
from threestudio_asd.distill.methods import METHODS
from threestudio_asd.distill.noising import Draws, NoisyBatch, Views
from threestudio_asd.distill.weighting import weight
from threestudio_asd.guidance.conditions import Conditions
from threestudio_asd.guidance.step import DistillationStep, Distilled
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.plain import PlainTeacher
from threestudio_asd.teachers.unet import FrozenUNet

Case = dict
Tensors = dict[str, Tensor]
#: The names of other codes for ours.
WEIGHTINGS = {"uniform": "uniform", "sds": "sds", "sigma_squared": "sds"}


class Recorded(Draws):
    """Gives back stored random numbers, in order."""

    def __init__(self, *normals: Tensor, uniform: float = 0.0) -> None:
        self.normals, self.number = list(normals), uniform

    def normal(self, like: Tensor) -> Tensor:
        return self.normals.pop(0).view_as(like)

    def uniform(self, n: int, device: torch.device) -> Tensor:
        return torch.full((n,), self.number, device=device)


def _teacher(case: Case, weights: Tensors) -> PlainTeacher:
    kind = case.get("prediction_type", "epsilon")
    net = FrozenUNet(_unet(_part(weights, "teacher")), SCHEDULE, kind)
    return PlainTeacher(net.epsilon, net.latent_shape, SCHEDULE)


def _text(x: Tensors, negatives: str = "embed_neg", **names: str) -> Conditions:
    """Conditions by our names of the stored embeddings."""
    batch = len(x["noise"])
    texts = {
        ours: Condition(x[f"embed_{theirs}"].expand(batch, -1, -1))
        for ours, theirs in names.items()
    }
    weights = next((x[k] for k in ("neg_weights", "view_neg_weights") if k in x), None)
    moved = (None, None) if weights is None else (Condition(x[negatives]), weights)
    return Conditions(texts, Condition(x["noise"].new_zeros(batch, 1, 1)), *moved)


def _views(n: int, reference: Tensor | None = None) -> Views:
    return Views(*torch.zeros(3, n), reference=reference)


def _evaluated(
    step: DistillationStep, latents: Tensor, *args: object, **options: object
) -> tuple[Distilled, Tensor]:
    """One step and its loss's gradient with respect to the latents."""
    latents = latents.clone().requires_grad_()
    found = step.evaluate(latents, *args, **options)
    return found, torch.autograd.grad(found.loss, latents)[0]


def _guided(found: Distilled, scale: float, start: str = "") -> Tensor:
    said = found.predictions
    return classifier_free_guidance(said[f"{start}null"], said[f"{start}cond"], scale)


def _sdi(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    perp_neg, t = case["perp_neg"], x["t"]
    scale, inversion_scale = (
        convert_threestudio_sds_scale(case[key], perp_neg)
        for key in ("guidance_scale", "inversion_guidance_scale")
    )
    step = DistillationStep(METHODS.get("sdi"), _teacher(case, weights))
    text = _text(x, null="uncond", cond="cond")
    out = {}
    if case["defined_noise"] or not case["enable_sdi"]:
        noisy = NoisyBatch.of(SCHEDULE, x["latents"], t, x["noise"])
    else:
        keys = ("inversion_n_steps", "inversion_eta")
        settings = step.defaults | {key: float(case[key]) for key in keys}
        settings["inversion_guidance_scale"] = inversion_scale
        draws = Recorded(*x["inversion_noise"], uniform=case["uniform_draw"])
        noisy = step.noisy(x["latents"], t, _views(1), text, settings, draws)
        last = torch.tensor([case["inversion_to"][-1]])
        out["noise"] = NoisyBatch.reaching(SCHEDULE, x["latents"], noisy.x_t, last).noise
    found, grad = _evaluated(step, x["latents"], text, noisy, scale)
    guided = _guided(found, scale)
    return out | {
        "x_noisy": noisy.x_t,
        "noise_pred": guided,
        "target": found.predictions.x0(guided),
        "loss": found.loss.detach(),
        "grad": grad,
        "grad_norm": found.grad.norm(),
    }


def _drawn(
    name: str, case: Case, x: Tensors, weights: Tensors, text: Conditions, scale: float, **options
) -> tuple[Distilled, Tensor]:
    """A step of the row ``name`` with the stored t and noise."""
    own = {key: options.pop(key) for key in ("clip", "settings") if key in options}
    step = DistillationStep(METHODS.get(name), _teacher(case, weights), **options)
    own["settings"] = step.defaults | own.get("settings", {})
    noisy = NoisyBatch.of(SCHEDULE, x["latents"], x["t"], x["noise"])
    return _evaluated(step, x["latents"], text, noisy, scale, **own)


def _two_d(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    """The optimiser takes ``grad``; the printed loss is another."""
    name, texts = {
        "sds_bridge_2d": ("sds-bridge", {"bridge_source": "source", "bridge_target": "target"}),
        "sds_2d": ("sds", {"null": "null", "cond": "cond"}),
        "nfsd": ("nfsd", {"null": "null", "cond": "cond", "negative": "neg"}),
    }[case["method"]]
    scale = case["cfg_scale"]
    settings = {"bridge_scale": scale} if name == "sds-bridge" else {}
    _, grad = _drawn(name, case, x, weights, _text(x, **texts), scale, settings=settings)
    return {"grad": grad}


def _bridge_3d(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    weighting, clip = case["weighting_strategy"], case["grad_clip_value"]
    if case["stage"] == 1:
        name, texts = "sds-bridge-first", {"null": "uncond", "cond": "target"}
    else:
        name, texts = "sds-bridge-3d", {"bridge_source": "source", "bridge_target": "target"}
    options = {"weighting": WEIGHTINGS[weighting], "clip": clip}
    text, scale = _text(x, **texts), case["guidance_scale"]
    found, grad = _drawn(name, case, x, weights, text, scale, **options)
    return {"grad": grad, "loss": found.loss.detach(), "grad_norm": found.grad.norm()}


def _csd(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    teacher, pixel = _teacher(case, weights), case["guidance"] == "pixel"
    given = x["rgb" if pixel else "latents"].clone().requires_grad_()
    latents = given
    if pixel:  # three channels of four
        known, latents = teacher.epsilon, 2.0 * given - 1.0
        shape = latents.shape[1:]

        def function(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return known(torch.cat([x_t, 0 * x_t[:, :1]], dim=1), t, condition)[:, :3]

        teacher = PlainTeacher(function, tuple(shape), SCHEDULE)
    text = _text(x, "embed_view_neg", cond="cond", null="negprompt", empty="null")
    options = {"weighting": WEIGHTINGS[case["weighting"]], "normalise": case["grad_normalize"]}
    step = DistillationStep(METHODS.get("csd"), teacher, **options)
    settings = {key: float(case[key]) for key in step.defaults if key in case}
    settings["negative_scale"] = case["uncond_scale"]
    noisy = NoisyBatch.of(SCHEDULE, latents.detach(), x["t"], x["noise"])
    clip = case.get("grad_clip_val")
    found = step.evaluate(latents, text, noisy, 1.0, clip, settings=settings)
    grad = torch.autograd.grad(found.loss, given)[0]
    out = {"loss": found.loss.detach(), "grad_norm": found.grad.norm()}
    return out | {"grad_rgb" if pixel else "grad": grad}


def _ism(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    batch, scale = len(x["latents"]), case["guidance_scale"]
    t = torch.full((batch,), case["index_t"] + 1)
    if case["perp_neg"]:
        x = x | {"neg_weights": x["view_weights"][1:].T}
        x |= {"embed_neg": x["embed_view_neg"].transpose(0, 1).flatten(0, 1)}
    text = _text(x, cond="cond", null="negprompt", empty="inverse")
    if case["sds"]:
        x = x | {"t": t}
        _, grad = _drawn("sds", case, x, weights, text, scale, weighting="asd")
        return {"grad": case["lambda_guidance"] * grad * batch}  # the sum, not the mean
    step = DistillationStep(METHODS.get("ism"), _teacher(case, weights))
    settings = step.defaults | {
        "interval_delta": float(case["segments"][1]["delta"]),
        "xs_delta": float(case["xs_delta_t"]),
        "xs_n_steps": float(case["xs_inv_steps"]),
        "offset_noise": 0.0,  # the stored noise has it
    }
    noisy = step.noisy(x["latents"], t, _views(batch), text, settings, Recorded(x["noise"]))
    found, grad = _evaluated(step, x["latents"], text, noisy, scale, settings=settings)
    said = found.predictions
    return {
        "x_s": said["before"],
        "x_t": noisy.x_t,
        "source": said["inverted"],
        "grad": case["lambda_guidance"] * grad,
    }


def _dds(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    assert case.get("alpha_exp", 0) == case.get("sigma_exp", 0) == 0
    scale = case["guidance_scale"]
    if case["method"] == "dds_sds_baseline":
        text = _text(x, cond="target", null="null")
        found, _ = _drawn("sds", case, x, weights, text, scale, weighting="uniform")
        return {"grad": found.grad * x["mask"]}
    step = DistillationStep(METHODS.get("dds"), _teacher(case, weights))
    text = _text(x, cond="target", null="null", reference_cond="source")
    views = _views(len(x["latents"]), x["source_latents"])
    noisy = step.noisy(x["latents"], x["t"], views, text, draws=Recorded(x["noise"]))
    found, grad = _evaluated(step, x["latents"], text, noisy, scale)
    return {
        "target_prediction": _guided(found, scale),
        "source_prediction": _guided(found, scale, "reference_"),
        "grad": found.grad,
        "loss_grad": grad,
    }


def _dds_edit(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    latents = x["source_latents"]
    for i in range(case["iterations"]):
        one = {"latents": latents, "t": x["t"][i : i + 1], "noise": x["noise"][i : i + 1]}
        grad = _dds(case, x | one, weights)["loss_grad"]
        latents = latents - case["lr"] * case["loss_factor"] * grad
    return {"edited_latents": latents}


def _cfd(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    scale = convert_threestudio_sds_scale(case["guidance_scale"], case["perp_neg"])
    text = _text(x, "embed_view_neg", cond="cond", null="negprompt")
    found, grad = _drawn("cfd", case, x, weights, text, scale)
    return {
        "weight": weight(METHODS.get("cfd").weighting, SCHEDULE, x["t"], grad),
        "teacher_prediction": _guided(found, scale),
        "grad_norm": found.grad.norm(),
        "loss": found.loss.detach(),
        "loss_grad": grad,
    }


def _esd(case: Case, x: Tensors, weights: Tensors) -> Tensors:
    kinds = {"teacher_prediction_type": "epsilon", "single_model": False}
    teacher, critic = _networks(case | kinds, weights)
    row = METHODS.get("esd")
    # The row's own share of the camera is that of lambda = 1/2.
    camera_scale = None if case["lambda"] == 0.5 else 1.0 - case["lambda"]
    step = DistillationStep(row, teacher, critic, CriticSettings(), camera_scale)
    text = _text(x, cond="view", null="uncond")
    text = Conditions(text.texts, Condition(x["embed_plain"])).with_camera(x["camera"])
    noisy = NoisyBatch.of(SCHEDULE, x["latents"], x["t"], x["noise"])
    critics = NoisyBatch.of(SCHEDULE, x["latents"], x["t_critic"], x["noise_critic"])
    found, _ = _evaluated(
        *(step, x["latents"], text, noisy, case["guidance_scale"]),
        critic_noisy=critics,
        hide_camera=case["camera_dropped_in_critic_step"],
    )
    loss = torch.stack(list(found.critic_terms.values())).sum()
    loss.backward()
    return {
        "grad": found.grad,
        "loss": found.loss.detach(),
        "grad_norm": found.grad.norm(),
        "loss_critic": loss.detach(),
        "critic_grad_norm": _grad_norm(critic.lora),
        "camera_grad_norm": _grad_norm(critic.camera),
    }


#: What reads the cases of a method.
READ = {
    "sdi": _sdi,
    "sds_bridge_2d": _two_d,
    "sds_2d": _two_d,
    "nfsd": _two_d,
    "sds_bridge_3d": _bridge_3d,
    "csd": _csd,
    "ism": _ism,
    "dds": _dds,
    "dds_sds_baseline": _dds,
    "dds_edit": _dds_edit,
    "cfd": _cfd,
    "esd": _esd,
}
