"""The critic e_phi: a frozen UNet, a low-rank adapter and a camera embedding.

    y = W x + B A x    for each adapted layer (Hu et al. 2021, arXiv:2106.09685), scale alpha/r = 1

In ASD this is the discriminator's "fake prompt" phi (arXiv:2312.00739), in VSD the score of the
renders. The network may be the teacher's own: detached, it is the teacher to the last bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.critics.base import register_critic
from threestudio_asd.critics.camera import CameraEmbedding
from threestudio_asd.critics.half import call_scaled
from threestudio_asd.distill.prediction_types import to_epsilon
from threestudio_asd.distill.schedule import NoiseSchedule, Times
from threestudio_asd.errors import UserError
from threestudio_asd.teachers.base import Teacher
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.unet import FrozenUNet

#: Projections of every self- and cross-attention: what ProlificDreamer and ASD adapt.
ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
#: Convolutions of the residual blocks; with the attention they let a small UNet's critic follow.
RESNET_LAYERS = ("conv1", "conv2", "conv_shortcut")


class LoRACritic(nn.Module):
    """A trainable adapter and camera embedding on a frozen UNet.

    Only these are parameters and state; the UNet is not a sub-module. A new critic predicts what
    its UNet predicts (B = 0) up to the camera's influence. Its weights are float32, also on a UNet
    in half precision; on one in float16 their gradients are scaled within (``critics.half``).

    Args:
        net: The UNet to adapt, with its own schedule and prediction type (which may differ from
            the teacher's). Several critics may share one; each needs its own ``name``.
        rank: r; the scale alpha / r is 1.
        target_modules: Name endings of the layers to adapt.
        camera: Whether the critic is told the camera, by an embedding of its own; a network that
            knows cameras tells it by its own embedding.
        camera_dropout: Probability that a training step hides it (``draw_camera_dropout``).
        init: Spread of A: "peft" uniform within 1/sqrt(fan_in), "gaussian" with deviation 1/r
            (the official code's: larger, hence faster at equal learning rate).
        name: The adapter's name in the UNet.

    Raises:
        UserError: The name is taken, no layer matches, or the UNet has a class embedding already.
    """

    def __init__(
        self,
        net: FrozenUNet,
        rank: int = 4,
        target_modules: Sequence[str] = ATTENTION_LAYERS,
        camera: bool = True,
        camera_dropout: float = 0.1,
        init: Literal["peft", "gaussian"] = "peft",
        name: str = "critic",
    ) -> None:
        super().__init__()
        if camera and net.unet.class_embedding is not None and not net.knows_cameras:
            raise UserError("The critic's UNet has a class embedding already: use camera=False.")
        layers = _add_adapter(net.unet, name, rank, target_modules, init)
        # A tuple and a dict are not registered: the UNet stays out of parameters and state.
        self._net, self._layers, self.name = (net,), layers, name
        self.lora = _tree(layers, name)
        self.camera: CameraEmbedding | None = None
        self.knows_cameras, self.camera_dropout = camera, camera_dropout
        if camera and not net.knows_cameras:
            self.camera = CameraEmbedding(net.unet.time_embedding.linear_2.out_features)
        self.to(net.device).float()

    @property
    def net(self) -> FrozenUNet:
        return self._net[0]

    @property
    def schedule(self) -> NoiseSchedule:
        return self.net.schedule

    @property
    def prediction_type(self) -> str:
        return self.net.prediction_type

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within, the UNet is the critic; after, also after an exception, what it was before."""
        unet = self.net.unet
        switches = [
            (layer._disable_adapters, layer._active_adapter) for layer in self._layers.values()
        ]
        class_embedding, worn, before = unet.class_embedding, self.net.worn, [*self.net.worn]
        try:
            # PEFT's own switches also clear requires_grad on the way out, which would discard the
            # gradient of every prediction whose backward pass comes later.
            for layer in self._layers.values():
                layer._disable_adapters, layer._active_adapter = False, [self.name]
            if self.camera is not None:
                unet.class_embedding = self.camera
            worn.append(self.name)
            yield
        finally:
            worn[:] = before
            for layer, switch in zip(self._layers.values(), switches, strict=True):
                layer._disable_adapters, layer._active_adapter = switch
            unet.class_embedding = class_embedding

    def predict(
        self, x_t: Float[Tensor, "B C h w"], t: Times, condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        """The critic's prediction in its own space (``prediction_type``), float32.

        Without ``condition.camera`` a critic that knows cameras is given zeros, as in camera
        dropout; one whose network knows them is given no embedding, as that network was trained.

        Raises UserError if a camera is given to a critic without camera embedding.
        """
        if condition.camera is not None and not self.knows_cameras:
            raise UserError("This critic knows no cameras: build it with camera=True.")
        own = self.camera
        labels = self.net.labels(condition) if own is None else own.labels(condition.camera, x_t)
        if self.net.dtype == torch.float16 and torch.is_grad_enabled():
            return call_scaled(self, x_t, t, condition.tokens, labels)
        return self(x_t, t, condition.tokens, labels)

    def forward(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Times,
        tokens: Float[Tensor, "B L D"],
        labels: Float[Tensor, "B 16"] | None,
    ) -> Float[Tensor, "B C h w"]:
        """The network with the adapter on it; ``predict`` is for callers."""
        with self.attached():
            return self.net.predict(x_t, t, Condition(tokens), labels)

    def epsilon(
        self, x_t: Float[Tensor, "B C h w"], t: Times, condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        """e_phi: the critic's prediction as epsilon, float32."""
        prediction = self.predict(x_t, t, condition)
        return to_epsilon(self.schedule, prediction, x_t.float(), t, self.prediction_type)

    def draw_camera_dropout(self) -> bool:
        """Whether this training step is to call ``predict`` without the camera."""
        return self.knows_cameras and bool(torch.rand(()) < self.camera_dropout)

    def remove(self) -> None:
        """Take the adapter out of the UNet for good; the critic is of no use afterwards."""
        self.net.unet.delete_adapters(self.name)
        self.net.recorder.forget((self.name,))


@register_critic("lora")
def lora_critic(cfg: Any, teacher: Teacher) -> LoRACritic:
    """On the teacher's own UNet, or on that of ``pretrained_model_name_or_path_lora``.

    Raises:
        UserError: The teacher has no UNet, or the other model cannot be had.
    """
    net = getattr(teacher, "net", None)
    if not isinstance(net, FrozenUNet):
        raise UserError(
            f"critic_type 'lora' adapts a UNet, and the teacher of teacher_type "
            f"'{cfg.teacher_type}' has none; register a critic for it."
        )
    if net.knows_cameras and cfg.camera_condition_type == "mvp":
        raise UserError(
            "The teacher is told cameras as matrices to the world, and so is the critic on its "
            "network; set system.guidance.camera_condition_type to extrinsics or none."
        )
    other = cfg.pretrained_model_name_or_path_lora
    same = cfg.single_model or other in (None, cfg.pretrained_model_name_or_path)
    if not (same or teacher.is_model(other)):
        net = FrozenUNet.load(other, net.dtype, net.device)
    return LoRACritic(
        net,
        rank=cfg.lora_rank,
        target_modules=tuple(cfg.lora_target_modules),
        camera=cfg.camera_condition_type != "none",
        init="gaussian",
    )


def _add_adapter(
    unet: nn.Module, name: str, rank: int, target_modules: Sequence[str], init: str
) -> dict[str, nn.Module]:
    """Inject a detached adapter; returns the adapted layers by their path in the UNet."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    if name in getattr(unet, "peft_config", {}):
        raise UserError(f"The UNet has an adapter '{name}' already: give this critic another name.")
    endings = tuple(f".{module}" for module in target_modules)
    if not any(f".{path}".endswith(endings) for path, _ in unet.named_modules()):
        raise UserError(f"No layer of the UNet ends in any of: {', '.join(target_modules)}.")
    trainable = [p for p in unet.parameters() if p.requires_grad]
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(target_modules),
        init_lora_weights=True if init == "peft" else init,
    )
    unet.add_adapter(config, adapter_name=name)
    for parameter in trainable:  # PEFT freezes the other critics of this UNet
        parameter.requires_grad_(True)
    layers = {
        path: module
        for path, module in unet.named_modules()
        if isinstance(module, LoraLayer) and name in module.lora_A
    }
    for layer in layers.values():
        layer._disable_adapters = True
    return layers


def _tree(layers: dict[str, nn.Module], name: str) -> nn.Module:
    """Modules named as the layers' paths, each with its layer's ``down`` (A) and ``up`` (B)."""
    root = nn.Module()
    for path, layer in layers.items():
        node = root
        for part in path.split("."):
            if not hasattr(node, part):
                node.add_module(part, nn.Module())
            node = node.get_submodule(part)
        node.down, node.up = layer.lora_A[name], layer.lora_B[name]
    return root
