"""Losses and logs from a guidance's output, for every system."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from threestudio_asd.errors import UserError


def guidance_losses(system: Any, guidance_out: dict[str, Any]) -> Tensor:
    """The sum of ``loss_x`` weighted by ``loss.lambda_x``; scalars go to the log as ``train/*``.

    Raises:
        UserError: The guidance returns a loss that the config gives no weight.
    """
    total: Any = 0.0
    for name, value in guidance_out.items():
        if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
            system.log(f"train/{name}", value)
        if not name.startswith("loss_"):
            continue
        key = name.replace("loss_", "lambda_", 1)
        if key not in system.cfg.loss:
            raise UserError(
                f"The guidance returns {name} but the config has no weight for it; "
                f"add system.loss.{key}=1.0."
            )
        total = total + value * system.C(system.cfg.loss[key])
    return total


def train_critic(
    system: Any, rgb: Tensor, batch: dict[str, Any], rgb_as_latents: bool = False
) -> None:
    """The steps of the guidance's critic that come before the joint one (``lora_n_steps`` - 1).

    They see the renders ``rgb`` (B, H, W, C) as they are. The optimiser is the system's own, and
    the critic's parameters alone have a gradient in it: others stay where they are, with their
    state. What earlier batches have accumulated for the joint step is kept for it.
    """
    losses = getattr(system.guidance, "extra_critic_losses", None)
    if losses is None:
        return
    optimizer = system.optimizers(use_pl_optimizer=False)  # Lightning's would count the steps
    rgb = rgb.detach()
    with _gradients_set_aside(optimizer):
        for loss in losses(rgb, system.prompt_utils, **batch, rgb_as_latents=rgb_as_latents):
            if not torch.isfinite(loss):
                return  # the joint step meets it again, and is counted as not finite
            optimizer.zero_grad(set_to_none=True)
            guidance_losses(system, {"loss_lora": loss}).backward()
            optimizer.step()


@contextmanager
def _gradients_set_aside(optimizer: Optimizer) -> Iterator[None]:
    """In the block parameters have no gradient but the block's own, so that the optimiser passes
    over all others; after it they have again what they had before."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [parameter.grad for parameter in parameters]
    optimizer.zero_grad(set_to_none=True)
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient


def log_weights(system: Any) -> None:
    """The current loss weights, as threestudio logs them."""
    for name, value in system.cfg.loss.items():
        system.log(f"train_params/{name}", system.C(value))
