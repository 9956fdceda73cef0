"""The time that a training spends in its networks, forward and backward."""

import time
from collections.abc import Callable
from typing import Any

import torch


class Marks:
    """Moments on the device's own clock: CUDA events on the current stream, else wall time."""

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda

    def now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        """Between two marks, both reached: synchronise first."""
        return begin.elapsed_time(end) / 1e3 if self.cuda else end - begin


class NetworkTime:
    """While ``on``: when teacher and critic's UNet and the VAE's encoder run.

    Within the block their calls are marked at begin and end. Of a backward pass, the begin is when
    the gradient of the call's output is known; the end, when that of its input (the encoder) or of
    the last trained parameter (the critic) is. Calls overlap where autograd interleaves them.
    """

    def __init__(self, marks: Marks) -> None:
        self.marks, self.on = marks, False
        self._spans: list[list[Any]] = []
        self._critic: list[Any] | None = None  # the span of the critic's backward pass
        self._watched: set[int] = set()

    def __enter__(self) -> "NetworkTime":
        from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
        from threestudio_asd.teachers.unet import FrozenUNet

        self._undo = [
            (FrozenUNet, "predict", FrozenUNet.predict),
            (StableDiffusionTeacher, "encode", StableDiffusionTeacher.encode),
        ]
        (_, _, predict), (_, _, encode) = self._undo
        FrozenUNet.predict = self._marked(predict, self._watch_critic)
        StableDiffusionTeacher.encode = self._marked(encode, self._watch_encoder)
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, method in self._undo:
            setattr(owner, name, method)

    def seconds(self, origin: Any) -> float:
        """The length of the union of all spans; ``origin`` is a mark before them."""
        at = self.marks.seconds
        total, reached = 0.0, 0.0
        for begin, end in sorted((at(origin, b), at(origin, e)) for b, e in self._spans):
            total += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return total

    def _marked(self, method: Callable[..., Any], watch: Callable[..., None]) -> Callable[..., Any]:
        def run(owner: Any, rows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if not self.on:
                return method(owner, rows, *args, **kwargs)
            begin = self.marks.now()
            output = method(owner, rows, *args, **kwargs)
            self._spans.append([begin, self.marks.now()])
            if output.requires_grad:
                watch(owner, rows, output)
            return output

        return run

    def _begin(self) -> list[Any]:
        now = self.marks.now()
        self._spans.append([now, now])
        return self._spans[-1]

    def _watch_encoder(self, _: Any, images: torch.Tensor, latents: torch.Tensor) -> None:
        span: list[Any] = []

        def begin(_: torch.Tensor) -> None:
            span.append(self._begin())

        def end(_: torch.Tensor) -> None:
            if span:
                span[0][1] = self.marks.now()

        latents.register_hook(begin)
        if images.requires_grad:
            images.register_hook(end)

    def _watch_critic(self, net: Any, _: torch.Tensor, prediction: torch.Tensor) -> None:
        from threestudio_asd.parallel import trained

        def begin(_: torch.Tensor) -> None:
            self._critic = self._begin()

        def end(_: torch.Tensor) -> None:
            if self.on and self._critic is not None:
                self._critic[1] = self.marks.now()

        prediction.register_hook(begin)
        for parameter in trained(net.unet):
            if id(parameter) not in self._watched:
                self._watched.add(id(parameter))
                parameter.register_post_accumulate_grad_hook(end)
