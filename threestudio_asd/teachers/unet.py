"""A frozen diffusers UNet with its noise schedule: what a teacher asks and a critic adapts; and the
small network beside it that knows what it makes of clean latents."""

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threestudio_asd.distill.prediction_types import check_prediction_type, to_epsilon
from threestudio_asd.distill.schedule import DiscreteSchedule, NoiseSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.parallel import largest_piece, map_batch, trained
from threestudio_asd.pretrained.resolve import resolve_model
from threestudio_asd.teachers.checkpoint_kinds import require_checkpoint
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.lora.fuse import fuse_lora
from threestudio_asd.teachers.recorded import Recorder
from threestudio_asd.teachers.views import (
    camera_labels,
    check_groups,
    join_views,
    knows_cameras,
    without_camera,
)
from threestudio_asd.teachers.weights import Checkpoint, load_part, views_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Where networks compute in half precision if a config allows it: a CPU is slower in it.
HALF_PRECISION = {"cuda"}
#: The sub-folder of a model that holds its corrective network.
CORRECTIVE = "corrective"


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of "fp32", "bf16" or "fp16"; raises UserError on anything else."""
    parsed = DTYPES.get(dtype, dtype)
    if parsed not in DTYPES.values():
        raise UserError(f"Unknown precision '{dtype}'; choose one of: {', '.join(DTYPES)}.")
    return parsed


def network_dtype(device: torch.device, half: bool) -> torch.dtype:
    """What frozen networks compute in on ``device``; ``half`` allows float16."""
    return torch.float16 if half and device.type in HALF_PRECISION else torch.float32


def latent_shape(unet: nn.Module) -> tuple[int, int, int]:
    """(C, h, w) of the latents that a diffusers UNet was trained on."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width


@dataclass(frozen=True, eq=False)
class FrozenUNet:
    """A ``UNet2DConditionModel`` that no optimiser changes.

    A plain object rather than a module, so that no state dict, optimiser or ``.to()`` of a module
    that holds it reaches the network.

    Args:
        unet: The network; it is put into eval mode and its weights stop requiring gradients.
        schedule: The noise schedule it was trained with.
        prediction_type: What it states: "epsilon", "v_prediction" or "sample".
        views_at_once: How many views of a scene, one after the other in a batch, it sees together.
    """

    unet: nn.Module
    schedule: NoiseSchedule
    prediction_type: str = "epsilon"
    views_at_once: int = 1
    worn: list[str] = field(default_factory=list, init=False)
    """Names of the adapters that are attached at the moment."""
    evaluated: Counter = field(default_factory=Counter, init=False)
    """``rows``: of how many latents it has made predictions so far; ``with_gradient``: of how many
    of them with gradient."""
    recorder: Recorder = field(init=False)

    def __post_init__(self) -> None:
        check_prediction_type(self.prediction_type)
        self.unet.eval().requires_grad_(False)
        join_views(self.unet, self.views_at_once)
        object.__setattr__(self, "recorder", Recorder(self.unet))

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        dtype: str | torch.dtype = "fp32",
        device: torch.device | str = "cpu",
        checkpoint: Checkpoint | None = None,
        lora: str | Path | None = None,
    ) -> "FrozenUNet":
        """From a folder in Stable Diffusion's format or a hub id.

        Schedule and prediction type come from the scheduler's configuration.

        Args:
            checkpoint: Weights in place of the model's own.
            lora: Added to the weights; see ``lora.fuse_lora``.

        Raises UserError if the model or one of the files cannot be had.
        """
        folder = resolve_model(path_or_id, ("unet", "scheduler"))
        if checkpoint is not None:
            require_checkpoint(checkpoint, folder)
        # Late: a model that cannot be had is told before seconds of imports.
        from diffusers import DDPMScheduler, UNet2DConditionModel

        unet = load_part(UNet2DConditionModel, folder, "unet", parse_dtype(dtype), checkpoint)
        views = views_of(folder, checkpoint)
        if lora is not None:
            fuse_lora(unet, lora)
        # Any scheduler's configuration holds what DDPM needs: the betas and the prediction type.
        try:
            scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"The scheduler of {folder} cannot be read: {error}") from error
        schedule = DiscreteSchedule(scheduler.alphas_cumprod).to(device)
        return cls(unet.to(device), schedule, scheduler.config.prediction_type, views)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the frozen weights (an adapter's may differ)."""
        return self.unet.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) that the network was trained on; other sizes work as well."""
        return latent_shape(self.unet)

    @property
    def knows_cameras(self) -> bool:
        """Whether it is told where each view is seen from."""
        return knows_cameras(self.unet)

    def labels(self, condition: Condition) -> Float[Tensor, "B 16"] | None:
        """What the network is told of the cameras, in its own precision; None for one that knows
        none, or without any."""
        if condition.camera is None or not self.knows_cameras:
            return None
        return camera_labels(condition.camera.float()).to(self.dtype)

    def predict(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Int[Tensor, " B"],
        condition: Condition,
        class_labels: Float[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """The network's own prediction, in float32; differentiable with respect to its inputs.

        It runs in the precision of its weights, inside an autocast region too.

        Args:
            class_labels: Of the network's class embedding; by default those of the condition's
                camera, and without one no class embedding is added.

        Raises:
            UserError: The batch is no multiple of ``views_at_once``.
        """
        if class_labels is None:
            class_labels = self.labels(condition)
        views = self.views_at_once
        check_groups(len(x_t), views)

        def run(x_t: Tensor, t: Tensor, tokens: Tensor, labels: Tensor | None = None) -> Tensor:
            return self.unet(x_t, t, encoder_hidden_states=tokens, class_labels=labels).sample

        def run_scenes(*scenes: Tensor) -> Tensor:
            return run(*(x.flatten(0, 1) for x in scenes)).unflatten(0, (-1, views))

        self.evaluated["rows"] += len(x_t)
        self.evaluated["with_gradient"] += len(x_t) if torch.is_grad_enabled() else 0
        blind = class_labels is None and self.unet.class_embedding is not None
        with (
            torch.autocast(x_t.device.type, enabled=False),
            without_camera(self.unet) if blind else contextlib.nullcontext(),
        ):
            rows = [x_t.to(self.dtype), t, condition.tokens.to(self.dtype)]
            rows += [] if class_labels is None else [class_labels]
            if views > 1:  # a scene's views stay together
                rows = [x.unflatten(0, (-1, views)) for x in rows]
            function = run if views == 1 else run_scenes
            call = self.recorder.of(function, largest_piece(*rows), tuple(self.worn))
            # The parameters that are trained are those of a critic's adapter.
            said = map_batch(call, *rows, parameters=trained(self.unet))
        return (said if views == 1 else said.flatten(0, 1)).float()

    def epsilon(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Int[Tensor, " B"],
        condition: Condition,
        class_labels: Float[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """The prediction as epsilon, in float32."""
        x_t = x_t.float()
        prediction = self.predict(x_t, t, condition, class_labels)
        return to_epsilon(self.schedule, prediction, x_t, t, self.prediction_type)


class CorrectiveNet(nn.Module):
    """b(x_0, t) = x_0 + r(x_0, t): what a teacher makes of clean latents, noised to t and denoised.

    (The learned manifold corrective of Alldieck et al. 2024, arXiv:2401.05293.) It lies beside the
    teacher's UNet, in the folder ``corrective``. Where r is 0, b is the identity.

    Args:
        net: r, a small ``UNet2DModel`` of diffusers'.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "CorrectiveNet":
        """That of the model in ``folder``, frozen, in single precision.

        Raises:
            UserError: It has none, or one whose weights cannot be loaded.
        """
        if not (folder / CORRECTIVE).is_dir():
            raise UserError(
                f"The model {folder} has no corrective network (a folder {CORRECTIVE} beside its "
                "unet), which the method reads; for tiny-shapes "
                "`python -m threestudio_asd.tiny.train corrective` trains one."
            )
        from diffusers import UNet2DModel

        net = load_part(UNet2DModel, folder, CORRECTIVE, torch.float32)
        return cls(net).eval().requires_grad_(False).to(device)

    def forward(
        self, x0: Float[Tensor, "B C h w"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C h w"]:
        """b, in float32, inside an autocast region too."""
        with torch.autocast(x0.device.type, enabled=False):
            return x0.float() + self.net(x0.float(), t).sample
