"""Train the autoencoder of tiny-shapes: 64 x 64 images to 4 x 16 x 16 latents of unit spread."""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from threestudio_asd.stop import held

from ..dataset import Renders, cached
from ..scenes import training_pairs
from .loop import run

RENDER_COUNT = 12288
RENDER_SEED = 11
NORMAL_FRACTION = 0.13


def teacher_renders(work: Path) -> Renders:
    """The teacher's training images; held-out (object, colour) pairs are not among them."""
    path = work / "teacher-renders.pt"
    return cached(path, RENDER_COUNT, RENDER_SEED, training_pairs(), NORMAL_FRACTION)


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
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
    y, x = torch.randint(images.shape[-1] - size + 1, (2,), generator=generator).tolist()
    return images[..., y : y + size, x : x + size]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """A third of the batch is made unlike a clean render, as half-optimised 3D models are.

    Convex mixtures of two renders look like fog, and noise like speckle.
    """
    third = len(images) // 3
    weight = 0.2 + 0.6 * torch.rand(third, 1, 1, 1, generator=generator)
    mixed = torch.lerp(images[:third], images[-third:], weight)
    mixed = mixed + 0.06 * torch.randn(mixed.shape, generator=generator)
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

    def loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        images = images * 2 - 1
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.sample(generator)
        kl = posterior.kl().mean() / latents[0].numel()
        return reconstruction_loss(self.vae.decode(latents).sample, images) + 1e-5 * kl


@torch.no_grad()
def encode_all(vae: AutoencoderKL, renders: Renders, batch: int = 128) -> Tensor:
    """Posterior means (N, 4, 16, 16) of every render."""
    chunks = renders.images.split(batch)
    return torch.cat([vae.encode(x.float() / 127.5 - 1).latent_dist.mean for x in chunks])


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


def main(work: Path, out: Path, steps: int = 1400, seed: int = 5) -> None:
    renders = teacher_renders(work)
    torch.manual_seed(seed)
    model = Autoencoding()

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        # A convolutional network learns most of its trade on quarter-size crops, four times faster.
        early = step < 0.65 * steps
        ids = torch.randint(len(renders), (24 if early else 16,), generator=generator)
        images = augment(renders.images[ids].float() / 255, generator)
        return model.loss(random_crop(images, 32, generator) if early else images, generator)

    state = run("vae", work, model, loss_at, steps, lr=2e-3, seed=seed, ema=0.995)
    model.load_state_dict(state)
    vae = model.vae.eval()
    normalise_latents(vae, encode_all(vae, renders))
    with held():
        vae.half().save_pretrained(out / "vae")
    vae.float()
    sample = renders.images[:256].float() / 255
    with torch.no_grad():
        decoded = vae.decode(vae.encode(sample * 2 - 1).latent_dist.mean).sample / 2 + 0.5
    print(f"vae: L1 {F.l1_loss(decoded, sample):.4f} on [0, 1]; saved to {out / 'vae'}")
