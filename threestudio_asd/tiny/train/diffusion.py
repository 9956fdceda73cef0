"""Train the UNet and text encoder of tiny-shapes and write the whole pipeline folder."""

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
from threestudio_asd.tiny.dataset import Renders
from threestudio_asd.tiny.scenes import HELD_OUT, training_pairs
from threestudio_asd.tiny.train.loop import note, run
from threestudio_asd.tiny.train.measure import sample_accuracy
from threestudio_asd.tiny.train.text import new_text_encoder, new_tokenizer, training_tokens
from threestudio_asd.tiny.train.vae import encode_all, teacher_renders

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
        alphas_cumprod = DDPMScheduler(**SCHEDULE).alphas_cumprod
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)

    def forward(self, latents: Tensor, tokens: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean squared error of the predicted noise; timesteps ``t`` (B,) in 0..999."""
        alphas = self.alphas_cumprod[t][:, None, None, None]
        noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * noise
        predicted = self.unet(noisy, t, encoder_hidden_states=self.text_encoder(tokens)[0]).sample
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


def main(
    work: Path,
    out: Path,
    steps: int = 2800,
    renders: int = 12288,
    batch: int = 48,
    lr: float = 5e-4,
    seed: int = 9,
    device: str = "cpu",
) -> None:
    data: Renders = teacher_renders(work, renders, device)
    vae = AutoencoderKL.from_pretrained(out / "vae").float().eval().to(device)
    latents = encode_all(vae, data)
    torch.manual_seed(seed)
    model = TextToLatents().to(device)
    tokens = training_tokens(model.tokenizer, seed).to(device)
    data = data.to(device)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        own = {"generator": generator, "device": device}
        ids = torch.randint(len(data), (batch,), **own)
        variants = torch.randint(tokens.shape[4], (batch,), **own)
        said = tokens[
            data.objects[ids],
            data.colors[ids],
            data.views[ids],
            data.normal_maps[ids].long(),
            variants,
        ]
        noise = torch.randn(latents[ids].shape, **own)
        # One timestep per stratum: the same expectation with less variance.
        strata = torch.arange(batch, device=device) + torch.rand(batch, **own)
        t = (strata / batch * 1000).long().clamp(max=999)
        return latents[ids], said, noise, t

    save_every = max(100, steps // 28)

    def report(done: int) -> None:
        if done % (5 * save_every) == 0:
            began = time.time()
            model.eval()
            known, held_out = (
                sample_accuracy(pipeline(model, vae), 48, seed=1, pairs=pairs)
                for pairs in (training_pairs(), HELD_OUT)
            )
            model.train()
            print(
                f"diffusion {done}: judge {known:.3f} of 48, {held_out:.3f} of 48 held out"
                f" ({time.time() - began:.0f}s)",
                flush=True,
            )

    state = run(
        "diffusion", work, model, draw, steps, lr, seed, save_every=save_every, on_save=report
    )
    write_folder(model, state, out / "vae", out)
    note("diffusion", work, model, steps=steps, batch=batch, renders=renders, lr=lr, seed=seed)
    print(f"diffusion: saved to {out}")
