"""How cases of the official one-step codes (SiD, SiDA, SiD-LSG, DMD2) are read: names and
conventions become this package's, and the step that a training takes does the rest. No loss is
computed here. Those codes sum over an item's D entries, where this package takes means.
"""

from dataclasses import replace

import torch
from check import SCHEDULE, _grad_norm, _part, _unet
from torch import Tensor, nn

from threestudio_asd.critics.encoder import TappedUNet
from threestudio_asd.critics.heads import Heads, convolutions
from threestudio_asd.distill.one_step import (
    ONE_STEP_METHODS,
    FakeSaid,
    GeneratorSaid,
    OneStepMethod,
    dmd_gradient,
    fake_losses,
    generator_losses,
    inverse_error_weight,
    sid,
)
from threestudio_asd.distill.prediction_types import converted
from threestudio_asd.generators.step import FakeDraw, GeneratorDraw, Noise, OneStep

Case = dict
Tensors = dict[str, Tensor]


def results(case: Case, x: Tensors, weights: Tensors, uncond: Tensor) -> Tensors:
    """Everything of a case that this package computes, by the stored names."""
    return READ[case["kind"]](case, x, weights, uncond)


def _row(name: str, case: Case, **changes: str) -> OneStepMethod:
    """A row with the case's numbers for settings of its own."""
    names = {
        "alpha": "alpha",
        "lsg": "score_weight",
        "lsg_gan": "adversarial_weight",
        "batch_gpu": "average_over",
        "sigma_data": "sigma_data",
        "kappa1": "fake_train_scale",
        "kappa23": "fake_scale",
        "kappa_fake": "fake_scale",
        "kappa4": "teacher_scale",
        "kappa_real": "teacher_scale",
        "real_guidance_scale": "teacher_scale",
        "gen_cls_loss_weight": "adversarial_weight",
        "guidance_cls_loss_weight": "discriminator_weight",
    }
    given = {ours: case[key] for key, ours in names.items() if case.get(key) is not None}
    if case.get("lsd") is not None:  # the mean of two cross entropies, where we take their sum
        given |= {"discriminator_weight": case["lsd"] / 2, "discriminator_per_level": True}
    row = ONE_STEP_METHODS.get(name)
    return replace(row, settings={**row.settings, "batch": case["batch"], **given}, **changes)


class Run:
    """The step of a case: its networks and what it draws."""

    def __init__(
        self,
        row: OneStepMethod,
        case: Case,
        weights: Tensors,
        uncond: Tensor,
        t_init: int,
        scaled: bool,
        heads: nn.Module | None = None,
    ) -> None:
        kind = case.get("prediction_type", "epsilon")
        networks = {}
        for name in ("teacher", "fake", "generator"):
            unet = _unet(_part(weights, name)).requires_grad_(name != "teacher")
            trained = None if name == "teacher" else unet
            networks[name] = TappedUNet(unet, SCHEDULE, kind, trained)
        self.fake, self.generator = networks["fake"], networks["generator"]

        def generate(z: Tensor, text: Tensor) -> Tensor:
            t = torch.full((len(z),), t_init)
            return self.generator(SCHEDULE.sigma(t, z) * z if scaled else z, t, text).x0

        self.settings = row.with_settings({}, "the case")
        if heads is None and row.adversary:
            heads = Heads.of("mean", [()])
        self.step = OneStep(
            *(row, self.settings, SCHEDULE, generate, networks["teacher"], self.fake),
            *(heads, uncond[0]),
        )

    def generator_gradients(self, total: Tensor, x: Tensor) -> Tensors:
        (grad_x,) = torch.autograd.grad(total, x, retain_graph=True)
        self.generator.unet.zero_grad()
        total.backward(retain_graph=True)
        unet = self.generator.unet
        return {
            "grad_x": grad_x,
            "grad_norm_generator": _grad_norm(unet),
            "grad_generator_conv_in": unet.conv_in.weight.grad.clone(),
            "grad_generator_conv_out": unet.conv_out.weight.grad.clone(),
        }

    def fake_norm(self, total: Tensor) -> Tensor:
        """All parameters' gradient stays for whoever asks further."""
        self.fake.unet.zero_grad()
        total.backward(retain_graph=True)
        used = [p for p in self.fake.unet.parameters() if p.grad is not None]
        return torch.stack([p.grad.norm() for p in used]).norm()


def _sid(case: Case, x: Tensors, weights: Tensors, uncond: Tensor) -> Tensors:
    sida = case["kind"] == "sida"
    row = _row("sida" if sida else "sid", case, fake="edm")
    run = Run(row, case, weights, uncond, case["t_init"], scaled=True)
    said, losses, found = _sid_generator(run, x)
    total = found["loss_sid"]
    if sida:
        gan = losses["adversarial"] * said.x[0].numel()
        gradients = run.generator_gradients(gan, said.x)
        found |= {"loss_gan": gan, "logits": said.logits[0], "grad_x_gan": gradients["grad_x"]}
        found["grad_norm_generator_gan"] = gradients["grad_norm_generator"]
        total = (total + gan) / 2
    found |= {"loss_total": total, **run.generator_gradients(total, said.x)}
    found["grad_x"] = _accumulated(found)
    draw = FakeDraw(x["z_d"], x["cond_d"], Noise(x["t_d"], x["noise_d"]), real=x.get("real"))
    judged = run.step.fake_said(draw)
    losses = fake_losses(row, run.settings, judged)
    found |= {"x_d": judged.x, "y_fake_d": judged.f_fake}
    total = found["loss_fake"] = losses["fake"] * judged.x[0].numel()
    if sida:
        found |= {"logits_fake": judged.logits_fake[0], "logits_real": judged.logits_real[0]}
        found["loss_d"] = losses["discriminator"]
        found["grad_norm_fake_d"] = run.fake_norm(losses["discriminator"])
        total = total + losses["discriminator"]
    found["grad_norm_fake"] = run.fake_norm(total)
    found["grad_fake_conv_in"] = run.fake.unet.conv_in.weight.grad.clone()
    torch.nn.utils.clip_grad_value_(run.fake.unet.parameters(), row.settings.get("clip_value", 1.0))
    found["grad_norm_fake_clipped"] = _grad_norm(run.fake.unet)
    return found


def _sid_generator(run: Run, x: Tensors) -> tuple[GeneratorSaid, Tensors, Tensors]:
    draw = GeneratorDraw(x["z"], x["cond"], Noise(x["t"], x["noise"]))
    said = run.step.generator_said(draw)
    losses = generator_losses(run.step.method, run.settings, said)
    weight = inverse_error_weight(said.x, said.f_real)
    items = sid(said.x, said.f_real, said.f_fake, run.settings.alpha) * weight
    found = {"x": said.x, "y_real": said.f_real, "y_fake": said.f_fake, "weight": 1 / weight}
    found |= {"sid_per_item": items, "loss_sid": losses["score"] * said.x[0].numel()}
    return said, losses, found


def _accumulated(found: Tensors) -> Tensor:
    """``grad_x`` as it is stored: that of the total after that of the adversarial term alone, which
    was not cleared. (The parameters' gradients are those of the total.)"""
    return found["grad_x"] + found.get("grad_x_gan", 0.0)


def _lsg(case: Case, x: Tensors, weights: Tensors, uncond: Tensor) -> Tensors:
    row = _row("sid-lsg", case)
    run = Run(row, case, weights, uncond, case["t_init"], scaled=True)
    said, _, found = _sid_generator(run, x)
    found |= run.generator_gradients(found["loss_sid"], said.x)
    dropped = x["dropped"].bool() if "dropped" in x else None
    noise = Noise(x["t_d"], x["noise_d"])
    judged = run.step.fake_said(FakeDraw(x["z_d"], x["cond_d"], noise, dropped))
    x_t = SCHEDULE.add_noise(judged.x, noise.noise, noise.t)
    kind = run.fake.prediction_type
    found["x_d"] = judged.x
    found["prediction_d"] = converted(SCHEDULE, judged.f_fake, x_t, noise.t, "sample", kind)
    losses = fake_losses(row, run.settings, judged)
    found["loss_fake"] = losses["fake"] * judged.x[0].numel()
    found["grad_norm_fake"] = run.fake_norm(found["loss_fake"])
    found["grad_fake_conv_in"] = run.fake.unet.conv_in.weight.grad
    return found


def _dmd2(case: Case, x: Tensors, weights: Tensors, uncond: Tensor) -> Tensors:
    row, gan, head = _row("dmd2" if case["gan"] else "dmd", case), case["gan"], None
    if gan:
        head = convolutions(32, 8, groups=8)
        head.load_state_dict(_part(weights, "head"))
        head = Heads([head])
    start = case["conditioning_timestep"]
    run = Run(row, case, weights, uncond, start, scaled=False, heads=head)
    apart = Noise(x["t_g"], x["noise_g"]) if gan else None
    draw = GeneratorDraw(x["z"], x["cond"], Noise(x["t"], x["noise"]), apart)
    said = run.step.generator_said(draw)
    losses = generator_losses(row, run.settings, said)
    total = torch.stack(list(losses.values())).sum()
    found = {"x": said.x, "pred_real": said.f_real, "pred_fake": said.f_fake}
    found |= {"grad": dmd_gradient(said.x, said.f_real, said.f_fake), "loss_dm": losses["score"]}
    if gan:
        gan_alone = losses["adversarial"] / run.settings.adversarial_weight
        found["loss_gen_cls"] = gan_alone
        found["grad_x_gan"] = torch.autograd.grad(gan_alone, said.x, retain_graph=True)[0]
    found |= {"loss_total": total, **run.generator_gradients(total, said.x)}
    found["grad_x"] = _accumulated(found)
    noise, real = Noise(x["t_d"], x["noise_d"]), {}
    if gan:
        real = {"real": x["real"], "real_text": x["cond_real"]}
        real["apart"] = Noise(x["t_gf"], x["noise_gf"])
        real["apart_real"] = Noise(x["t_real"], x["noise_real"])
    judged = run.step.fake_said(FakeDraw(x["z"], x["cond"], noise, **real))
    losses = fake_losses(row, run.settings, judged)
    total = torch.stack(list(losses.values())).sum()
    found |= {"loss_fake": losses["fake"], "loss_guidance_total": total}
    found["grad_norm_fake"] = run.fake_norm(total)
    found["grad_fake_conv_in"] = run.fake.unet.conv_in.weight.grad
    if gan:
        found["loss_guidance_cls"] = losses["discriminator"] / run.settings.discriminator_weight
        found["grad_norm_head"] = _grad_norm(head)
        found["realism_real"] = judged.logits_real[0].sigmoid()
        found["realism_fake"] = judged.logits_fake[0].sigmoid()
    return found


def _edm_leaves(case: Case, x: Tensors, weights: Tensors, uncond: Tensor) -> Tensors:
    """The losses alone, of stored predictions."""
    row = _row("sida", case, fake="edm")
    settings, entries = row.with_settings({}, "the case"), x["x"][0].numel()
    names = ("x", "y_real", "y_fake", "logits")
    leaves = [x[name].clone().requires_grad_() for name in names]
    data, y_real, y_fake, logits = leaves
    said = GeneratorSaid(data, f_real=y_real, f_fake=y_fake, logits=(logits,))
    losses = generator_losses(row, settings, said)
    items = sid(data, y_real, y_fake, settings.alpha) * inverse_error_weight(data, y_real)
    score, gan = losses["score"] * entries, losses["adversarial"] * entries
    found = {"sid_per_item": items, "loss_sid": score, "loss_gan": gan}
    gradients = torch.autograd.grad((score + gan) / 2, leaves)
    stored = ("grad_x_direct", *(f"grad_{name}" for name in names[1:]))
    found |= dict(zip(stored, gradients, strict=True))
    names = ("y_fake_d", "logits_fake", "logits_real")
    leaves = [x[name].clone().requires_grad_() for name in names]
    level = x["sigma_d"].view(-1, 1, 1, 1)
    judged = FakeSaid(x["x"], level, leaves[0], (leaves[1],), (leaves[2],))
    losses = fake_losses(row, settings, judged)
    found |= {"loss_fake": losses["fake"] * entries, "loss_d": losses["discriminator"]}
    gradients = torch.autograd.grad(found["loss_fake"] + found["loss_d"], leaves)
    return found | {f"grad_{name}": g for name, g in zip(names, gradients, strict=True)}


READ = {"sid": _sid, "sida": _sid, "lsg": _lsg, "dmd2": _dmd2, "edm_leaves": _edm_leaves}
