"""Training steps that are not finite: skipped, counted, and not for ever."""

from typing import Any

import torch
from torch import Tensor

from threestudio_asd.studio import log


class FiniteStepsMixin:
    """For a LightningModule: a step with a non-finite loss or gradient leaves the weights alone.

    The step counts as one (schedules, random numbers and cameras go on), but the optimiser sees
    no gradients. :attr:`nonfinite_steps` counts the steps skipped in a row;
    :class:`threestudio_asd.studio.callbacks.StopWhenNotFinite` ends the training.
    """

    nonfinite_steps: int = 0
    nonfinite_total: int = 0

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        finite = bool(torch.isfinite(loss.detach()).all())
        # A loss scaler must see every backward pass; it skips non-finite gradients by itself.
        if finite or scaler is not None:
            loss.backward(*args, **kwargs)
        if finite and scaler is None:
            finite = self._gradients_finite()
        if finite:
            self.nonfinite_steps = 0
            return
        if scaler is None:
            self.zero_grad(set_to_none=True)
        self.nonfinite_steps += 1
        self.nonfinite_total += 1
        if self.nonfinite_steps == 1:
            log.warn("step %d: loss or gradient is not finite; skipped.", self.global_step)

    def _gradients_finite(self) -> bool:
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        return not grads or bool(torch.isfinite(torch.nn.utils.get_total_norm(grads)))
