"""Fine-tune the UNet of tiny-shapes into one that sees four views of a scene and their cameras.

What MVDream did to Stable Diffusion (arXiv:2308.16512): joint self-attention over four views at
equal azimuth distances, the camera added to the time embedding, and a share of single pictures
without a camera, so that the world's variety is not forgotten. Autoencoder, text encoder and words
stay as they are.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from threestudio_asd.errors import UserError
from threestudio_asd.files import written_whole
from threestudio_asd.pretrained.folders import model_written_whole
from threestudio_asd.stop import held
from threestudio_asd.teachers.views import (
    CAMERA_EMBEDDING,
    camera_labels,
    join_views,
    knows_cameras,
    read_views,
    without_camera,
    write_views,
)
from threestudio_asd.tiny import model_folder
from threestudio_asd.tiny.dataset import OBJECT_NAMES, Scenes, build_scenes
from threestudio_asd.tiny.scenes import training_pairs
from threestudio_asd.tiny.train.loop import note, run
from threestudio_asd.tiny.train.measure_views import ROUND
from threestudio_asd.tiny.train.text import training_tokens
from threestudio_asd.tiny.train.vae import NORMAL_FRACTION

VIEWS_AT_ONCE = 4
RENDER_SEED = 23
#: Steps of ten that see single pictures.
SINGLE_OF_TEN = 1
#: Below 1, views are drawn at more noise than uniformly: there the camera decides what they show,
#: and what is left to learn at little noise is little.
NOISE_POWER = 0.4
#: The error of views is divided by this and the signal's share of the variance: at much noise the
#: camera makes a difference to the picture, but a small one to the noise.
SIGNAL_FLOOR = 0.2
#: How often objects that are not round are drawn, the others once.
TURNED = 3.0
#: Slope of the camera's features over the cosine of an azimuth: they are some 45 degrees wide.
SHARPNESS = 6.0


@torch.no_grad()
def sharpen_cameras(
    embedding: nn.Module, labels: Tensor, seed: int = 0, ridge: float = 1e-4
) -> None:
    """Give a camera embedding features that tell near azimuths apart, and say what it said.

    A camera's matrix holds sine and cosine of its azimuth, and a linear layer as it is commonly
    initialised is nearly linear in them after its SiLU; a cube or a table looks as its azimuth's
    fourth harmonic does. Hidden units become bumps around azimuths all over the circle, some
    leaning with the elevation; the second layer is fitted (ridge regression) to the embedding as it
    was.

    Args:
        embedding: ``linear_1``, ``act``, ``linear_2``, as a UNet's ``class_embedding``.
        labels: (N, 16), cameras as :func:`~threestudio_asd.teachers.views.camera_labels` has them.
        ridge: Weight of the squares, in shares of the features' mean square.
    """
    wanted = embedding(labels)
    first, second = embedding.linear_1, embedding.linear_2
    generator = torch.Generator().manual_seed(seed)
    count = first.out_features
    around = torch.arange(count) * (math.pi * (3 - math.sqrt(5)))  # the golden angle
    least = -0.3 + 1.2 * torch.rand(count, generator=generator)
    lean = 3.0 * torch.randn(count, generator=generator) * (torch.arange(count) % 3 > 0)
    first.weight.zero_()
    # A camera's right is (-sin, cos, 0) of its azimuth at any elevation, whose sine is its z.
    first.weight[:, 0] = -SHARPNESS * around.sin()
    first.weight[:, 4] = SHARPNESS * around.cos()
    first.weight[:, 11] = lean
    first.bias.copy_(-SHARPNESS * least - 0.4 * lean)
    hidden = embedding.act(first(labels))
    hidden = torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1).double()
    square = hidden.T @ hidden
    square += ridge * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    fitted = torch.linalg.solve(square, hidden.T @ wanted.double()).float()
    second.weight.copy_(fitted[:-1].T)
    second.bias.copy_(fitted[-1])


def unet_of_views(folder: Path) -> UNet2DConditionModel:
    """The UNet of a published folder of this stage, or of an earlier work folder, to train on.

    Raises:
        UserError: It sees no cameras, or another number of views.
    """
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32)
    views = read_views(folder / "unet")
    if not knows_cameras(unet) or views != VIEWS_AT_ONCE:
        raise UserError(
            f"{folder} is no model of {VIEWS_AT_ONCE} views that is told its cameras; --start-from "
            "takes a folder that the stage multiview wrote, or one named tiny-shapes-mv-... ."
        )
    return unet


def with_camera_embedding(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy with an embedding for cameras, which changes nothing until it is trained."""
    config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    new = UNet2DConditionModel.from_config({**config, **CAMERA_EMBEDDING})
    missing, unexpected = new.load_state_dict(unet.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("class_embedding.") for name in missing)
    nn.init.zeros_(new.class_embedding.linear_2.weight)
    nn.init.zeros_(new.class_embedding.linear_2.bias)
    return new


class TextToViews(nn.Module):
    """The UNet with its loss (DDPM, eq. 14); the text encoder is no part of it."""

    def __init__(
        self, unet: UNet2DConditionModel, alphas_cumprod: Tensor, bf16: bool = False
    ) -> None:
        super().__init__()
        self.unet, self.bf16 = unet, bf16
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)

    def forward(
        self, latents: Tensor, text: Tensor, noise: Tensor, t: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the predicted noise; that of views is weighted.

        Args:
            latents, noise: (S, V, 4, 16, 16), the views of S scenes; (S, 4, 16, 16) single ones.
            text: (S, L, D), one prompt a scene; t: (S,) in 0..999.
            labels: (S, V, 16), cameras; None for single pictures.

        Errors of views are divided by ``SIGNAL_FLOOR`` + alphas_cumprod.
        """
        views = 1 if labels is None else latents.shape[1]
        latents, noise = (
            latents.reshape(-1, *latents.shape[-3:]),
            noise.reshape(-1, *noise.shape[-3:]),
        )
        text, t = text.repeat_interleave(views, 0), t.repeat_interleave(views)
        alphas = self.alphas_cumprod[t][:, None, None, None]
        noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
        join_views(self.unet, views)
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self.bf16):
            if labels is None:
                with without_camera(self.unet):
                    predicted = self.unet(noisy, t, text).sample
            else:
                predicted = self.unet(noisy, t, text, class_labels=labels.flatten(0, 1)).sample
        if labels is None:
            return F.mse_loss(predicted.float(), noise)
        error = (predicted.float() - noise).square()
        return (error / (SIGNAL_FLOOR + alphas)).mean()


def cached_scenes(work: Path, count: int) -> Scenes:
    """The training scenes, read back if they were rendered before."""
    path = work / "scenes.pt"
    if path.exists():
        return Scenes(**torch.load(path, weights_only=True))
    scenes = build_scenes(count, VIEWS_AT_ONCE, RENDER_SEED, training_pairs(), NORMAL_FRACTION)
    work.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        torch.save(vars(scenes), partial)
    return scenes


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, scenes: Scenes, batch: int = 128) -> Tensor:
    """Posterior means (S, V, 4, 16, 16)."""
    chunks = scenes.images.flatten(0, 1).split(batch)
    means = [vae.encode(x.float() / 127.5 - 1).latent_dist.mean for x in chunks]
    return torch.cat(means).unflatten(0, scenes.images.shape[:2])


@torch.no_grad()
def encode_captions(pipe: StableDiffusionPipeline, seed: int) -> Tensor:
    """Embeddings of the training captions without a view: (O, C, 2, K, L, D)."""
    tokens = training_tokens(pipe.tokenizer, seed, variants=64)[:, :, 0]
    flat = tokens.reshape(-1, tokens.shape[-1])
    embedded = torch.cat([pipe.text_encoder(ids)[0] for ids in flat.split(1024)])
    return embedded.reshape(*tokens.shape, -1)


def main(
    work: Path,
    out: Path,
    steps: int = 6000,
    renders: int = 8192,
    batch: int = 8,
    lr: float = 4e-4,
    seed: int = 17,
    device: str = "cpu",
    start_from: Path | None = None,
    bf16: bool = False,
) -> None:
    """Train on ``renders`` scenes, ``batch`` of them a step; write the whole folder to ``out``.

    Args:
        start_from: A folder of this stage whose UNet is trained on; tiny-shapes' by default.
        bf16: Compute products in bfloat16: faster where the CPU has AMX.

    Raises:
        UserError: ``start_from`` holds no UNet of four views.
    """
    unet = None if start_from is None else unet_of_views(start_from)
    folder = Path(model_folder("tiny-shapes"))
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    scenes = cached_scenes(work, renders)
    latents = encode_scenes(pipe.vae, scenes).to(device)
    texts = encode_captions(pipe, seed).to(device)
    labels = [x.to(device) for x in (scenes.objects, scenes.colors, scenes.normal_maps.long())]
    cameras = camera_labels(scenes.c2w.flatten(0, 1)).unflatten(0, scenes.c2w.shape[:2])
    cameras = cameras.to(device)
    torch.manual_seed(seed)
    unet = with_camera_embedding(pipe.unet) if unet is None else unet
    sharpen_cameras(unet.class_embedding, cameras.flatten(0, 1).cpu())
    if device == "cpu":
        # Of few tokens, products and a softmax are faster than the fused kernel's way back.
        unet.set_attn_processor(AttnProcessor())
    model = TextToViews(unet, pipe.scheduler.alphas_cumprod, bf16).to(device)
    weights = torch.tensor([1.0 if name in ROUND else TURNED for name in OBJECT_NAMES])
    weights = weights.to(device)[labels[0]]

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        single = step % 10 < SINGLE_OF_TEN
        count = batch * VIEWS_AT_ONCE if single else batch
        own = {"generator": generator, "device": device}
        ids = torch.multinomial(weights, count, replacement=True, generator=generator)
        variants = torch.randint(texts.shape[3], (count,), **own)
        # One timestep per stratum: the same expectation with less variance.
        strata = (torch.arange(count, device=device) + torch.rand(count, **own)) / count
        t = (strata ** (1.0 if single else NOISE_POWER) * 1000).long().clamp(max=999)
        x0, said = latents[ids], texts[(*(label[ids] for label in labels), variants)]
        if single:
            shown = torch.randint(VIEWS_AT_ONCE, (count,), **own)
            x0 = x0[torch.arange(count, device=device), shown]
        noise = torch.randn(x0.shape, **own)
        return (x0, said, noise, t) if single else (x0, said, noise, t, cameras[ids])

    state = run(
        *("multiview", work, model, draw, steps, lr, seed),
        **{"ema": 0.995, "save_every": max(100, steps // 28), "decay_from": 0.5},
        replayed=False,
    )
    model.load_state_dict(state)
    write_folder(model.unet, folder, out)
    facts = {} if start_from is None else {"start_from": start_from.resolve().name}
    note(
        *("multiview", work, model),
        **{"steps": steps, "batch": batch, "renders": renders, "lr": lr, "seed": seed, **facts},
    )
    print(f"multiview: saved to {out}")


def write_folder(unet: UNet2DConditionModel, source: Path, out: Path) -> None:
    """The folder ``source`` with ``unet`` in place of its own, in half precision."""
    join_views(unet, 1)
    with held(), model_written_whole(out, source, without=("unet",)) as partial:
        unet.half().save_pretrained(partial / "unet", safe_serialization=True)
        unet.float()
        write_views(partial / "unet", VIEWS_AT_ONCE)
