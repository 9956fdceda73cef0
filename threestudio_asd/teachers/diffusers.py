"""Teachers in Stable Diffusion's folder format: 1.x, 2.x, the embedded world's, a user's own."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threestudio_asd import homes
from threestudio_asd.errors import UserError
from threestudio_asd.parallel import largest_piece, map_batch
from threestudio_asd.pretrained.files import content_hash
from threestudio_asd.pretrained.resolve import require_model, resolve_model
from threestudio_asd.pretrained.text_encoder import TEXT_COMPONENTS, TextEncoder
from threestudio_asd.teachers.base import Teacher, register_teacher
from threestudio_asd.teachers.cache import read_once
from threestudio_asd.teachers.checkpoint_kinds import require_checkpoint
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.recorded import Recorder
from threestudio_asd.teachers.unet import CorrectiveNet, FrozenUNet, network_dtype, parse_dtype
from threestudio_asd.teachers.weights import Checkpoint, load_part


class StableDiffusionTeacher(Teacher):
    """A latent diffusion model with a VAE, a CLIP text encoder and a cross-attention UNet.

    Latents and epsilons are float32 at the border, whatever the weights are.

    Args:
        net: The UNet with its schedule and prediction type.
        vae: The autoencoder; it is frozen.
        folder: The model's folder, from which the text encoder is loaded when first used.
        posterior: "sample" draws latents from the VAE's posterior, as it was trained and as
            threestudio does; "mean" takes its mean.
    """

    def __init__(
        self,
        net: FrozenUNet,
        vae: nn.Module,
        folder: str | Path,
        posterior: Literal["sample", "mean"] = "sample",
    ) -> None:
        self.net, self.vae, self.folder = net, vae.eval().requires_grad_(False), Path(folder)
        self.posterior, self._recorder = posterior, Recorder(self.vae)
        self.schedule, self.prediction_type = net.schedule, net.prediction_type
        self.latent_shape, self.views_at_once = net.latent_shape, net.views_at_once
        self.knows_cameras = net.knows_cameras
        self.downscale = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_size = self.latent_shape[-1] * self.downscale

    @classmethod
    @read_once
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        dtype: str | torch.dtype = "fp32",
        device: torch.device | str = "cpu",
        vae_dtype: str | torch.dtype | None = None,
        posterior: Literal["sample", "mean"] = "sample",
        checkpoint: str | Path | None = None,
        lora: str | Path | None = None,
    ) -> "StableDiffusionTeacher":
        """Load from a folder, the local hub cache or the hub.

        Args:
            dtype: The UNet's precision: "fp32", "bf16", "fp16" or a torch dtype.
            vae_dtype: The VAE's. By default ``dtype``, except that fp16 leaves it in fp32 unless
                its configuration says ``force_upcast: false``: activations of Stable Diffusion's
                autoencoders, and gradients through them, leave fp16's range and turn into NaN.
                bf16 has the range of fp32.
            checkpoint: A file or folder whose UNet, and VAE if it holds one, replace the model's.
            lora: A file or folder with a LoRA for the UNet; it is added to the weights.

        Raises:
            UserError: The model cannot be had (within 20 seconds), an unknown precision, or a
                checkpoint or LoRA that is missing or does not fit.
        """
        dtype = parse_dtype(dtype)
        folder = resolve_model(path_or_id)
        # Late: a model that cannot be had is told before seconds of imports.
        from diffusers import AutoencoderKL

        if vae_dtype is None:
            config = AutoencoderKL.load_config(folder, subfolder="vae")
            upcast = dtype == torch.float16 and config.get("force_upcast", True)
            vae_dtype = torch.float32 if upcast else dtype
        own = None if checkpoint is None else Checkpoint(checkpoint)
        net = FrozenUNet.load(folder, dtype, device, own, lora)
        vae = load_part(AutoencoderKL, folder, "vae", parse_dtype(vae_dtype), own)
        return cls(net, vae.to(device), folder, posterior)

    def is_model(self, path_or_id: str | Path) -> bool:
        """Whether ``path_or_id`` is this teacher's model, if by another name (a mirror's, say).

        Raises UserError if that model cannot be had.
        """
        return resolve_model(path_or_id, ("unet", "scheduler")).samefile(self.folder)

    @property
    def unet(self) -> nn.Module:
        """The diffusers UNet."""
        return self.net.unet

    def epsilon(
        self,
        x_t: Float[Tensor, "B C h w"],
        t: Int[Tensor, " B"],
        condition: Condition,
    ) -> Float[Tensor, "B C h w"]:
        """The predicted noise, float32, at any latent size; not within ``critic.attached()``."""
        return self.net.epsilon(x_t, t, condition)

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Latents, float32, of images in [0, 1] of any size; differentiable.

        Raises UserError if a side is not a multiple of the VAE's downscaling (8 for Stable
        Diffusion).
        """
        if images.shape[-2] % self.downscale or images.shape[-1] % self.downscale:
            raise UserError(
                f"Images of {images.shape[-2]} x {images.shape[-1]} pixels cannot be encoded: "
                f"give sides that are multiples of {self.downscale}."
            )
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        def moments(images: Tensor) -> Tensor:
            return self.vae.encode(images).latent_dist.parameters

        with torch.autocast(images.device.type, enabled=False):
            rows = (2.0 * images - 1.0).to(self.vae.dtype)
            found = map_batch(self._recorder.of(moments, largest_piece(rows)), rows)
            posterior = DiagonalGaussianDistribution(found)
        latents = posterior.sample() if self.posterior == "sample" else posterior.mean
        config = self.vae.config
        return (latents.float() - (config.shift_factor or 0.0)) * config.scaling_factor

    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Images in [0, 1], float32, of latents of any size."""
        config = self.vae.config
        latents = latents.float() / config.scaling_factor + (config.shift_factor or 0.0)

        def decode(latents: Tensor) -> Tensor:
            return self.vae.decode(latents).sample

        with torch.autocast(latents.device.type, enabled=False):
            images = map_batch(decode, latents.to(self.vae.dtype))
        return (images.float() / 2.0 + 0.5).clamp(0.0, 1.0)

    def same_latents_as(self, other: "StableDiffusionTeacher") -> bool:
        """Whether both have one autoencoder, by its files."""
        return len({content_hash(model.folder, ["vae"]) for model in (self, other)}) == 1

    def embed_text(self, prompts: list[str]) -> Condition:
        """Text embeddings, float32; the text encoder is loaded on first use and kept until
        :meth:`release_text_encoder`."""
        return Condition(self._text_encoder(prompts))

    def release_text_encoder(self) -> None:
        """Let go of the text encoder."""
        self.__dict__.pop("_text_encoder", None)

    def corrective(self) -> CorrectiveNet:
        """The network in the folder ``corrective`` of the model; loaded when first asked for.

        Raises UserError if the model has none.
        """
        return self._corrective

    @cached_property
    def _corrective(self) -> CorrectiveNet:
        return CorrectiveNet.load(self.folder, self.schedule.device)

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        folder = resolve_model(self.folder, TEXT_COMPONENTS)
        return TextEncoder(folder, self.schedule.device)


def require_stable_diffusion(cfg: Any) -> None:
    """Whether the models that the guidance config ``cfg`` names can be taught from: asked before
    anything is written, without reading or downloading weights.

    Raises:
        UserError: A model that cannot be had or is of another kind, or a checkpoint that does not
            fit; the message says which and what to do.
    """
    folder = require_model(cfg.pretrained_model_name_or_path)
    require_critic(cfg)
    if (checkpoint := cfg.get("ckpt_path")) and homes.expanded(checkpoint).exists():
        require_checkpoint(Checkpoint(checkpoint), folder)


def require_critic(cfg: Any) -> None:
    """Raises UserError if a UNet of its own that ``cfg`` names for the critic cannot be had."""
    other = cfg.get("pretrained_model_name_or_path_lora")
    if other is not None and not cfg.get("single_model"):
        require_model(other, ("unet", "scheduler"))


@register_teacher("stable-diffusion", require_stable_diffusion)
def stable_diffusion(cfg: Any, device: torch.device) -> StableDiffusionTeacher:
    """The model that ``pretrained_model_name_or_path`` names, in half precision on CUDA unless the
    config says otherwise."""
    return StableDiffusionTeacher.from_pretrained(
        cfg.pretrained_model_name_or_path,
        dtype=network_dtype(device, cfg.half_precision_weights),
        device=device,
        checkpoint=cfg.ckpt_path,
        lora=cfg.LoRA_path,
    )
