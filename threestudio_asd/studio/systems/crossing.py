"""The values of a training step that the CPU reads cross from the device in one copy.

Reading a number from a CUDA tensor waits until everything before it is computed. A step that reads
its ten logged values one by one, and asks twice whether all is finite, leaves the device idle as
often.
"""

import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Kept = tuple[tuple[str, Tensor | numbers.Number, dict[str, Any]], ...]


class CrossingMixin:
    """For a LightningModule: what ``training_step`` logs stays where it is until :meth:`crossed`
    takes it to the CPU, where Lightning gets it."""

    _kept: Kept = ()

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Lightning's ``log``; what it refuses in ``training_step`` it may refuse later on."""
        one = isinstance(value, Tensor) and value.numel() == 1 and value.device == self.device
        number = isinstance(value, numbers.Number)
        if (one or number) and not args and self._current_fx_name == "training_step":
            value = value.detach().clone() if one else value
            self._kept += ((name, value, kwargs),)
        else:
            super().log(name, value, *args, **kwargs)

    def crossed(self, values: Sequence[Tensor] = ()) -> list[float]:
        """``values`` (one element each) as numbers; what was logged until now goes along."""
        kept, self._kept = self._kept, ()
        logged = [value for _, value, _ in kept if isinstance(value, Tensor)]
        tensors = [value.reshape(1) for value in (*logged, *values)]
        # cat takes different precisions to one that holds them all.
        found = torch.cat(tensors).cpu() if tensors else torch.empty(0)
        if kept:
            self._hand_over(kept, iter(found))
        return found[len(logged) :].tolist()

    def _hand_over(self, kept: Kept, found: Iterator[Tensor]) -> None:
        """To Lightning, as if the training step still ran."""
        hook, self._current_fx_name = self._current_fx_name, "training_step"
        try:
            for name, value, options in kept:
                if isinstance(value, Tensor):
                    value = next(found).to(value.dtype)
                else:  # of a number Lightning would make a tensor on the device
                    value = torch.tensor(value, dtype=torch.get_default_dtype())
                super().log(name, value, **options)
        finally:
            self._current_fx_name = hook
