"""What the CPU reads of a training step: it crosses from the device in one copy.

Reading a number from a CUDA tensor waits until everything before it is computed. A step that reads
its ten logged values one by one, and asks twice whether all is finite, leaves the device idle as
often.
"""

import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class CrossingMixin:
    """For a LightningModule: :meth:`log` in ``training_step`` keeps tensors on the device until
    :meth:`crossed` takes them all to the CPU, where Lightning gets them."""

    _kept: tuple[tuple[str, Tensor, dict[str, Any]], ...] = ()

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Lightning's ``log``; what it refuses in ``training_step`` it may refuse later on."""
        one = isinstance(value, Tensor) and value.numel() == 1
        if one and not args and self._current_fx_name == "training_step":
            self._kept += ((name, value.detach().clone().reshape(1), kwargs),)
            return
        if isinstance(value, numbers.Number):  # Lightning would copy it to the device and back
            value = torch.tensor(value, dtype=torch.get_default_dtype())
        super().log(name, value, *args, **kwargs)

    def crossed(self, values: Sequence[Tensor] = ()) -> list[float]:
        """``values`` (one element each) as numbers; what was logged until now goes along."""
        kept, self._kept = self._kept, ()
        if not kept and not values:
            return []
        # cat takes different precisions to one that holds them all.
        tensors = [*(value for _, value, _ in kept), *(value.reshape(1) for value in values)]
        on_cpu = torch.cat([value.to(self.device) for value in tensors]).cpu().split(1)
        hook, self._current_fx_name = self._current_fx_name, "training_step"
        try:
            for (name, value, options), found in zip(kept, on_cpu, strict=False):
                super().log(name, found.to(value.dtype), **options)
        finally:
            self._current_fx_name = hook
        return [found.item() for found in on_cpu[len(kept) :]]
