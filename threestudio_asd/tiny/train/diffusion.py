"""Train the UNet and text encoder of tiny-shapes and write the whole pipeline folder."""

import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn

from threestudio_asd.stop import held

from ..captions import MAX_LENGTH, VIEWS, caption, training_caption
from ..dataset import COLOR_NAMES, OBJECT_NAMES, Renders
from ..judge import load_judge
from ..scenes import training_pairs
from .loop import run
from .text import new_text_encoder, new_tokenizer
from .vae import encode_all, teacher_renders

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "epsilon",
}


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


class TextToLatents(nn.Module):
    """Text encoder and UNet, trained together on the noise-prediction loss (DDPM, eq. 14)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = new_tokenizer()
        self.text_encoder = new_text_encoder(self.tokenizer)
        self.unet = new_unet()
        self.schedule = DDPMScheduler(**SCHEDULE)

    def embed(self, captions: list[str]) -> Tensor:
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            max_length=MAX_LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids.to(self.unet.device))[0]

    def loss(self, latents: Tensor, captions: list[str], generator: torch.Generator) -> Tensor:
        count = len(latents)
        noise = torch.randn(latents.shape, generator=generator)
        # One timestep per stratum: the same expectation with less variance.
        strata = torch.arange(count) + torch.rand(count, generator=generator)
        t = (strata / count * 1000).long().clamp(max=999)
        noisy = self.schedule.add_noise(latents, noise, t)
        predicted = self.unet(noisy, t, encoder_hidden_states=self.embed(captions)).sample
        return F.mse_loss(predicted, noise)


def pipeline(model: TextToLatents, vae: AutoencoderKL) -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(**SCHEDULE, set_alpha_to_one=False, steps_offset=1)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample_accuracy(pipe: StableDiffusionPipeline, count: int, seed: int, batch: int = 48) -> float:
    """Share of ``count`` samples (25 DDIM steps, scale 4) whose object and colour the judge names.

    Captions cycle over the training pairs and the views.
    """
    judge, pairs = load_judge(), training_pairs()
    # A stride coprime to the number of pairs visits them all in a mixed order.
    wanted = [pairs[(i * 37) % len(pairs)] for i in range(count)]
    captions = [caption(o, c, VIEWS[i % 4], False) for i, (o, c) in enumerate(wanted)]
    generator = torch.Generator().manual_seed(seed)
    named = []
    for i in range(0, count, batch):
        images = pipe(
            captions[i : i + batch],
            num_inference_steps=25,
            guidance_scale=4.0,
            generator=generator,
            output_type="pt",
        ).images
        named += judge.name(images.float())
    return sum(n == w for n, w in zip(named, wanted, strict=True)) / count


def write_folder(
    model: TextToLatents, state: dict[str, Tensor], vae_folder: Path, out: Path
) -> None:
    """Safetensors of the averaged weights ``state`` in diffusers' folder layout.

    UNet and VAE in half precision. The text encoder, half a megabyte, in single:
    transformers loads what it finds, diffusers single precision, and both must agree.
    """
    model.load_state_dict(state)
    vae = AutoencoderKL.from_pretrained(vae_folder)
    pipe = pipeline(model.eval(), vae)
    pipe.unet.half()
    pipe.vae.half()
    with held():
        pipe.save_pretrained(out, safe_serialization=True)
    pipe.unet.float()


def main(work: Path, out: Path, steps: int = 2800, seed: int = 9) -> None:
    renders: Renders = teacher_renders(work)
    vae = AutoencoderKL.from_pretrained(out / "vae").float().eval()
    latents = encode_all(vae, renders)
    torch.manual_seed(seed)
    model = TextToLatents()

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        ids = torch.randint(len(renders), (48,), generator=generator)
        rng = random.Random(seed * 1_000_003 + step)
        captions = [
            training_caption(
                rng,
                OBJECT_NAMES[renders.objects[i]],
                COLOR_NAMES[renders.colors[i]],
                VIEWS[renders.views[i]],
                bool(renders.normal_maps[i]),
            )
            for i in ids.tolist()
        ]
        return model.loss(latents[ids], captions, generator)

    def report(done: int) -> None:
        if done % 500 == 0:
            began = time.time()
            model.eval()
            accuracy = sample_accuracy(pipeline(model, vae), 48, seed=1)
            model.train()
            print(f"diffusion {done}: judge {accuracy:.3f} of 48 ({time.time() - began:.0f}s)")

    state = run("diffusion", work, model, loss_at, steps, lr=5e-4, seed=seed, on_save=report)
    write_folder(model, state, out / "vae", out)
    print(f"diffusion: saved to {out}")
