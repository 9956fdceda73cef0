"""What every system here does with a guidance's output."""

from typing import Any

from torch import Tensor

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


def log_weights(system: Any) -> None:
    """The current loss weights, as threestudio logs them."""
    for name, value in system.cfg.loss.items():
        system.log(f"train_params/{name}", system.C(value))
