"""Train the autoencoder of tiny-shapes: 64 x 64 images to 4 x 16 x 16 latents of unit spread."""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from threestudio_asd.stop import held
from threestudio_asd.tiny.dataset import Renders, cached
from threestudio_asd.tiny.scenes import training_pairs
from threestudio_asd.tiny.train.loop import note, run

RENDER_SEED = 11
NORMAL_FRACTION = 0.13
LATENT_CHANNELS = 4


def teacher_renders(work: Path, count: int, device: torch.device | str = "cpu") -> Renders:
    """The teacher's training images; held-out (object, colour) pairs are not among them."""
    return cached(
        work / "teacher-renders.pt",
        count,
        RENDER_SEED,
        training_pairs(),
        NORMAL_FRACTION,
        chunk=64 if torch.device(device).type == "cpu" else 512,
        device=device,
    )


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
    )


def open_residual_branches(vae: AutoencoderKL) -> None:
    """Start every residual branch at zero: a nearly linear network passes colours at once."""
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)


def random_crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The same ``size`` x ``size`` window of every image."""
    own = {"generator": generator, "device": images.device}
    y, x = torch.randint(images.shape[-1] - size + 1, (2,), **own).tolist()
    return images[..., y : y + size, x : x + size]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """A third of the batch is made unlike a clean render, as half-optimised 3D models are.

    Convex mixtures of two renders look like fog, and noise like speckle.
    """
    third = len(images) // 3
    device = images.device
    weight = 0.2 + 0.6 * torch.rand(third, 1, 1, 1, generator=generator, device=device)
    mixed = torch.lerp(images[:third], images[-third:], weight)
    mixed = mixed + 0.06 * torch.randn(mixed.shape, generator=generator, device=device)
    return torch.cat((mixed.clamp(0, 1), images[third:]))


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 plus MSE on pixels plus half the L1 of horizontal and vertical differences (keeps edges).

    L1 alone is content with grey pictures for a thousand steps; the square makes colour urgent.
    """
    loss = F.l1_loss(output, target) + 2 * F.mse_loss(output, target)
    for dim in (-1, -2):
        loss = loss + 0.25 * F.l1_loss(output.diff(dim=dim), target.diff(dim=dim))
    return loss


class Autoencoding(nn.Module):
    """The VAE with its training loss, so that :func:`loop.run` sees one module."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = new_vae()
        open_residual_branches(self.vae)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Loss of images in [0, 1] with the posterior's standard normal ``noise``."""
        images = images * 2 - 1
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.mean + posterior.std * noise
        kl = posterior.kl().mean() / latents[0].numel()
        return reconstruction_loss(self.vae.decode(latents).sample, images) + 1e-4 * kl


@torch.no_grad()
def encode_all(vae: AutoencoderKL, renders: Renders, batch: int = 128) -> Tensor:
    """Posterior means (N, 4, 16, 16) of every render, on the model's device."""
    chunks = renders.images.split(batch)
    return torch.cat(
        [vae.encode(x.to(vae.device).float() / 127.5 - 1).latent_dist.mean for x in chunks]
    )


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, latents: Tensor) -> None:
    """Fold per-channel standardisation of ``latents`` into the 1x1 (post-)quantisation convs.

    The latents then have zero mean and unit standard deviation in every channel, and a scaling
    factor of 1 serves all pipelines; the autoencoder's function is unchanged.
    """
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]


def main(
    work: Path,
    out: Path,
    steps: int = 1400,
    renders: int = 12288,
    batch: int = 16,
    lr: float = 2e-3,
    seed: int = 5,
    device: str = "cpu",
) -> None:
    data = teacher_renders(work, renders, device).to(device)
    torch.manual_seed(seed)
    model = Autoencoding().to(device)
    # A convolutional network learns most of its trade on quarter-size crops, four times faster;
    # a GPU's batches keep one size.
    crops = 0 if data.images.is_cuda else int(0.65 * steps)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count, size = (batch * 3 // 2, 32) if step < crops else (batch, 64)
        ids = torch.randint(len(data), (count,), generator=generator, device=device)
        images = augment(data.images[ids].float() / 255, generator)
        noise = torch.randn(
            count, LATENT_CHANNELS, size // 4, size // 4, generator=generator, device=device
        )
        return random_crop(images, size, generator) if size < 64 else images, noise

    state = run("vae", work, model, draw, steps, lr, seed, ema=0.995)
    model.load_state_dict(state)
    vae = model.vae.eval()
    normalise_latents(vae, encode_all(vae, data))
    with held():
        vae.half().save_pretrained(out / "vae")
    vae.float()
    note("vae", work, model, steps=steps, batch=batch, renders=renders, lr=lr, seed=seed)
    sample = data.images[:256].float() / 255
    with torch.no_grad():
        decoded = vae.decode(vae.encode(sample * 2 - 1).latent_dist.mean).sample / 2 + 0.5
    print(f"vae: L1 {F.l1_loss(decoded, sample):.4f} on [0, 1]; saved to {out / 'vae'}")
