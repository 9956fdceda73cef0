"""What a CUDA device would make the CPU wait for, counted on CPU tensors."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten._unique2.default}


class Waits(TorchDispatchMode):
    """``count``: numbers read from tensors, sizes that depend on data, lists made of tensors."""

    count = 0

    def __enter__(self):
        self.tolist = torch.Tensor.tolist

        def counted(tensor):
            self.count += tensor.dim() > 0
            return self.tolist(tensor)

        torch.Tensor.tolist = counted
        return super().__enter__()

    def __exit__(self, *error):
        del torch.Tensor.tolist
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in WAITING
        return func(*args, **(kwargs or {}))
