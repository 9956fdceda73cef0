"""A UNet that says two things in one pass: its prediction, and what its encoder made of the input.

Discriminators of one-step generators read the encoder of a score network: SiDA (arXiv:2410.14919)
the last down block's output, DMD2 (arXiv:2405.14867) the middle block's. Of real pictures they need
no more; the pass then ends there (on the embedded teacher after a fifth of its time).
"""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.critics.lora import ATTENTION_LAYERS, RESNET_LAYERS, LoRACritic
from threestudio_asd.distill.prediction_types import to_x0
from threestudio_asd.distill.schedule import NoiseSchedule, Times
from threestudio_asd.errors import UserError
from threestudio_asd.parallel import largest_piece, map_batch, trained
from threestudio_asd.teachers.recorded import Recorder
from threestudio_asd.teachers.unet import FrozenUNet

#: What can be tapped, in the order of a pass.
BLOCKS = ("down", "middle")
Features = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Tapped:
    """One pass.

    Args:
        x0: The prediction as x_0, float32.
        features: (B, K, i, j) of each block that was asked for, float32.
    """

    x0: Float[Tensor, "B C h w"]
    features: Features = ()


class _Reached(Exception):
    """The last block that was asked for has spoken."""


@dataclass(frozen=True, eq=False)
class TappedUNet:
    """A diffusers UNet as a score of pictures, with taps on its encoder.

    A plain object; an optimiser and a state dict are handed ``trained``. The network runs in the
    precision of its weights, on a CPU in pieces of the batch (``parallel``).

    Args:
        unet: The network.
        schedule: Its noise schedule.
        prediction_type: What it states.
        trained: What of it is trained, a module; None for a frozen network.
        worn: Makes the network what it is while it is asked (an adapter's switch).
    """

    unet: nn.Module
    schedule: NoiseSchedule
    prediction_type: str
    trained: nn.Module | None = None
    worn: Callable[[], contextlib.AbstractContextManager] = field(
        default=contextlib.nullcontext, repr=False
    )
    _recorder: Recorder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        blocks = list(self._blocks.values())
        object.__setattr__(self, "_recorder", Recorder(self.unet, self.trained, blocks))

    @property
    def _blocks(self) -> dict[str, nn.Module]:
        return {"down": self.unet.down_blocks[-1], "middle": self.unet.mid_block}

    @classmethod
    def frozen(cls, net: FrozenUNet) -> "TappedUNet":
        """The teacher's network itself."""
        return cls(net.unet, net.schedule, net.prediction_type)

    @classmethod
    def copied(cls, net: FrozenUNet) -> "TappedUNet":
        """A copy in float32 that is trained whole.

        Raises UserError for a network with adapters on it, or one that sees several views at once.
        """
        _refuse_views(net)
        if getattr(net.unet, "peft_config", None):
            raise UserError(
                "The teacher's UNet has adapters on it and cannot be copied; train the adapter of "
                "a fake network (fake: lora), or load the teacher anew."
            )
        unet = copy.deepcopy(net.unet).float().requires_grad_(True)
        return cls(unet, net.schedule, net.prediction_type, unet)

    @classmethod
    def adapted(
        cls,
        net: FrozenUNet,
        rank: int = 64,
        target_modules: Sequence[str] = ATTENTION_LAYERS + RESNET_LAYERS,
        name: str = "fake",
    ) -> "TappedUNet":
        """The teacher's network with a low-rank adapter that is trained; asked without it, the
        network stays the teacher to the last bit.

        Raises UserError for a network in float16, where an adapter's gradients vanish.
        """
        _refuse_views(net)
        if net.dtype == torch.float16:
            raise UserError(
                "An adapter of the encoder cannot be trained on a UNet in float16; load the "
                "teacher in fp32 or bf16."
            )
        critic = LoRACritic(net, rank, target_modules, camera=False, init="gaussian", name=name)
        return cls(net.unet, net.schedule, net.prediction_type, critic, critic.attached)

    def __call__(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Times,
        text: Float[Tensor, "B L D"],
        blocks: Sequence[str] = (),
    ) -> Tapped:
        """The x_0 of x_t and, from the same pass, the output of ``blocks``; differentiable."""
        said = self._said(x_t, t, text, blocks)
        x0 = to_x0(self.schedule, said["prediction"], x_t.float(), t, self.prediction_type)
        return Tapped(x0, tuple(said[block] for block in blocks))

    def encode(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Times,
        text: Float[Tensor, "B L D"],
        blocks: Sequence[str],
    ) -> Features:
        """The output of ``blocks`` alone; the network is left after the last of them."""
        said = self._said(x_t, t, text, blocks, last=max(blocks, key=BLOCKS.index))
        return tuple(said[block] for block in blocks)

    def _said(
        self, x_t: Tensor, t: Tensor, text: Tensor, blocks: Sequence[str], last: str | None = None
    ) -> dict[str, Tensor]:
        """float32, by block, and the ``prediction``; without it a pass ends after ``last``."""
        dtype = self.unet.conv_in.weight.dtype
        heard = threading.local()  # pieces of a batch run through the same blocks at once
        names = [*blocks, *(["prediction"] if last is None else [])]

        def run(x_t: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, ...]:
            heard.found = found = {}
            with contextlib.suppress(_Reached):
                found["prediction"] = self.unet(x_t, t, encoder_hidden_states=text).sample
            return tuple(found[name] for name in names)

        with (
            torch.autocast(x_t.device.type, enabled=False),
            self.worn(),
            self._tapped(blocks, last, heard),
        ):
            rows = x_t.to(dtype), t, text.to(dtype)
            call = run
            # An adapter is another network while it is worn.
            if getattr(self.unet, "peft_config", None) is None:
                call = self._recorder.of(run, largest_piece(*rows), (*names, last))

            def named(*rows: Tensor) -> dict[str, Tensor]:
                return dict(zip(names, call(*rows), strict=True))

            found = map_batch(named, *rows, parameters=trained(self.unet))
        return {name: value.float() for name, value in found.items()}

    @contextlib.contextmanager
    def _tapped(
        self, blocks: Sequence[str], last: str | None, heard: threading.local
    ) -> Iterator[None]:
        places = self._blocks

        def hook(block: str) -> Callable[..., None]:
            def hear(module: nn.Module, inputs: object, output: Tensor | tuple) -> None:
                # A down block also hands on what the decoder will be shown.
                heard.found[block] = output if isinstance(output, Tensor) else output[0]
                if block == last:
                    raise _Reached

            return hear

        handles = [places[block].register_forward_hook(hook(block)) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextlib.contextmanager
def parameters_at_rest(*modules: nn.Module | None) -> Iterator[None]:
    """What is computed within has no gradient with respect to the modules' parameters, also where
    the backward pass comes later; with respect to its inputs it has."""
    resting = [
        parameter
        for module in modules
        if module is not None
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    try:
        for parameter in resting:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in resting:
            parameter.requires_grad_(True)


def _refuse_views(net: FrozenUNet) -> None:
    if net.views_at_once > 1:
        raise UserError(
            f"This teacher sees {net.views_at_once} views of a scene at once; one-step generators "
            "draw single pictures. Choose a teacher of single pictures."
        )
