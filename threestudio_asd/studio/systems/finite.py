"""Training steps that are not finite: skipped, counted, and not for ever."""

import math
from typing import Any

import torch
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.studio.systems.crossing import CrossingMixin


class FiniteStepsMixin(CrossingMixin):
    """For a LightningModule: a step with a non-finite loss or gradient leaves the weights alone.

    The step counts as one (schedules, random numbers and cameras go on), but the optimiser sees
    no gradients. :attr:`nonfinite_steps` counts the steps skipped in a row;
    :class:`threestudio_asd.studio.run.callbacks.StopWhenNotFinite` ends the training.
    """

    nonfinite_steps: int = 0
    nonfinite_total: int = 0

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        loss.backward(*args, **kwargs)
        # A loss scaler must see every backward pass; it skips non-finite gradients by itself.
        looked_at = [loss.detach(), *(self._gradient_norm() if scaler is None else ())]
        if all(map(math.isfinite, self.crossed(looked_at))):
            self.nonfinite_steps = 0
            return
        if scaler is None:
            self.zero_grad(set_to_none=True)
        self.nonfinite_steps += 1
        self.nonfinite_total += 1
        if self.nonfinite_steps == 1:
            log.warn("step %d: loss or gradient is not finite; skipped.", self.global_step)

    def _gradient_norm(self) -> list[Tensor]:
        """The norm of all gradients, if there are any."""
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        return [torch.nn.utils.get_total_norm(grads)] if grads else []
