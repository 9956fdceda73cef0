"""Fine-tune the UNet of tiny-shapes into one that sees four views of a scene and their cameras.

What MVDream did to Stable Diffusion (arXiv:2308.16512): joint self-attention over four views at
equal azimuth distances, the camera added to the time embedding, and a share of single pictures
without a camera, so that the world's variety is not forgotten. Autoencoder, text encoder and words
stay as they are.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from threestudio_asd.files import written_whole
from threestudio_asd.stop import held
from threestudio_asd.teachers.unet import CORRECTIVE
from threestudio_asd.teachers.views import (
    CAMERA_EMBEDDING,
    camera_labels,
    join_views,
    without_camera,
    write_views,
)
from threestudio_asd.tiny import model_folder
from threestudio_asd.tiny.dataset import Scenes, build_scenes
from threestudio_asd.tiny.scenes import training_pairs
from threestudio_asd.tiny.train.loop import note, run
from threestudio_asd.tiny.train.text import training_tokens
from threestudio_asd.tiny.train.vae import NORMAL_FRACTION

VIEWS_AT_ONCE = 4
RENDER_SEED = 23
#: Steps of ten that see single pictures.
SINGLE_OF_TEN = 3
CAMERA_LAYERS = "unet.class_embedding"


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

    def __init__(self, unet: UNet2DConditionModel, alphas_cumprod: Tensor) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)

    def forward(
        self, latents: Tensor, text: Tensor, noise: Tensor, t: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the predicted noise.

        Args:
            latents, noise: (S, V, 4, 16, 16), the views of S scenes; (S, 4, 16, 16) single ones.
            text: (S, L, D), one prompt a scene; t: (S,) in 0..999.
            labels: (S, V, 16), cameras; None for single pictures.
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
        if labels is None:
            with without_camera(self.unet):
                predicted = self.unet(noisy, t, text).sample
        else:
            predicted = self.unet(noisy, t, text, class_labels=labels.flatten(0, 1)).sample
        return F.mse_loss(predicted, noise)


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
    batch: int = 12,
    lr: float = 4e-4,
    seed: int = 17,
    device: str = "cpu",
) -> None:
    """Train on ``renders`` scenes, ``batch`` of them a step; write the whole folder to ``out``."""
    folder = Path(model_folder("tiny-shapes"))
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    scenes = cached_scenes(work, renders)
    latents, texts = encode_scenes(pipe.vae, scenes), encode_captions(pipe, seed)
    cameras = camera_labels(scenes.c2w.flatten(0, 1)).unflatten(0, scenes.c2w.shape[:2])
    torch.manual_seed(seed)
    unet = with_camera_embedding(pipe.unet)
    model = TextToViews(unet, pipe.scheduler.alphas_cumprod).to(device)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        single = step % 10 < SINGLE_OF_TEN
        count = batch * VIEWS_AT_ONCE if single else batch
        ids = torch.randint(len(scenes), (count,), generator=generator)
        variants = torch.randint(texts.shape[3], (count,), generator=generator)
        kind = (scenes.objects[ids], scenes.colors[ids], scenes.normal_maps[ids].long(), variants)
        # One timestep per stratum: the same expectation with less variance.
        strata = torch.arange(count) + torch.rand(count, generator=generator)
        t = (strata / count * 1000).long().clamp(max=999)
        x0 = latents[ids]
        if single:
            x0 = x0[
                torch.arange(count), torch.randint(VIEWS_AT_ONCE, (count,), generator=generator)
            ]
        noise = torch.randn(x0.shape, generator=generator)
        found = (x0, texts[kind], noise, t)
        return tuple(x.to(device) for x in (found if single else (*found, cameras[ids])))

    state = run(
        *("multiview", work, model, draw, steps, lr, seed),
        **{"ema": 0.995, "save_every": max(100, steps // 28), "decay_from": 0.5},
        faster={CAMERA_LAYERS: 4.0},
    )
    model.load_state_dict(state)
    write_folder(model.unet, folder, out)
    note("multiview", work, model, steps=steps, batch=batch, renders=renders, lr=lr, seed=seed)
    print(f"multiview: saved to {out}")


def write_folder(unet: UNet2DConditionModel, source: Path, out: Path) -> None:
    """The folder ``source`` with ``unet`` in place of its own, in half precision."""
    join_views(unet, 1)
    others = ("unet", CORRECTIVE, "report.json", "*.md", "*.png")
    keep: Callable[..., set[str]] = shutil.ignore_patterns(*others)
    with held():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(source, out, ignore=keep)
        unet.half().save_pretrained(out / "unet", safe_serialization=True)
        unet.float()
        write_views(out / "unet", VIEWS_AT_ONCE)
