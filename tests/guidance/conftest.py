"""A tiny model in Stable Diffusion's format, a prompt, a batch of cameras, a count of the UNet."""

from contextlib import contextmanager

import pytest
import torch

from threestudio_asd.distill.noising import NoisyBatch, Views
from threestudio_asd.guidance.asd import StableDiffusionASDGuidance
from threestudio_asd.studio.models.prompt_processor import PromptProcessorOutput
from threestudio_asd.studio.models.prompt_processor.directions import view_directions
from threestudio_asd.tiny.random_sd import write_random_sd
from threestudio_asd.tiny.train.corrective import new_corrective
from threestudio_asd.tiny.train.corrective import write as write_corrective

WIDTH, TOKENS = 24, 77  # of a text embedding: the model's


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Prediction type -> a model of random weights; a corrective network lies beside its UNet."""
    root = tmp_path_factory.mktemp("sd")
    kinds = ("epsilon", "v_prediction")
    found = {kind: write_random_sd(root / kind, kind, text_width=WIDTH) for kind in kinds}
    corrective = new_corrective()
    torch.nn.init.normal_(corrective.net.conv_out.weight, std=0.1)
    for folder in found.values():
        write_corrective(corrective, folder, {})
    return found


@pytest.fixture
def make(folders):
    """Builds the guidance on the tiny model; its critic has moved away from the teacher."""

    def build(**cfg):
        cfg = {"pretrained_model_name_or_path": str(folders["epsilon"]), **cfg}
        torch.manual_seed(0)
        guidance = StableDiffusionASDGuidance(cfg)
        for name, parameter in guidance.named_parameters():
            if name.endswith("up.weight"):
                torch.nn.init.normal_(parameter, std=0.1)
        return guidance

    return build


@pytest.fixture
def prompt():
    """Builds what a prompt processor returns, with random embeddings."""

    def build(perp_neg=False):
        generator = torch.Generator().manual_seed(1)
        embeddings = torch.randn(7, TOKENS, WIDTH, generator=generator)
        directions = view_directions(45.0, 45.0, 60.0, False)
        return PromptProcessorOutput(
            text_embeddings=embeddings[:1],
            uncond_text_embeddings=embeddings[1:2],
            text_embeddings_vd=embeddings[2:6],
            uncond_text_embeddings_vd=embeddings[1:2].expand(4, -1, -1),
            directions=directions,
            direction2idx={d.name: i for i, d in enumerate(directions)},
            use_perp_neg=perp_neg,
            perp_neg_f_sb=(1.0, 0.5, -0.606),
            perp_neg_f_fsb=(1.0, 0.5, 0.967),
            perp_neg_f_fs=(4.0, 0.5, -2.426),
            perp_neg_f_sf=(4.0, 0.5, -2.426),
            prompt="a mug",
            prompts_vd=[f"a mug, {d.name} view" for d in directions],
        )

    return build


@pytest.fixture
def views():
    """Builds a batch of cameras; the azimuths are such that both perp-neg weights count."""
    across = torch.linspace(-0.4, 0.4, 64)
    y, x = torch.meshgrid(across, across, indexing="ij")
    rays_d = torch.nn.functional.normalize(torch.stack([-torch.ones_like(x), x, -y], -1), dim=-1)

    def build(elevation=(10.0, 20.0)):
        n = len(elevation)
        generator = torch.Generator().manual_seed(2)
        # A render that half of the picture is solid in: a wall through the origin.
        opacity = (torch.arange(64) < 32).float().expand(n, 64, 64)[..., None]
        return {
            "elevation": torch.tensor(elevation),
            "azimuth": torch.linspace(-70.0, 120.0, n),
            "camera_distances": torch.full((n,), 1.5),
            "c2w": torch.randn(n, 4, 4, generator=generator),
            "mvp_mtx": torch.randn(n, 4, 4, generator=generator),
            "height": 64,  # a batch holds more than the guidance asks for
            "rays_o": torch.tensor([1.5, 0.0, 0.0]).expand(n, 64, 64, 3),
            "rays_d": rays_d.expand(n, -1, -1, -1),
            "depth": opacity * 1.5 / -rays_d[..., :1],
            "opacity": opacity,
        }

    return build


@pytest.fixture
def fixed():
    """Makes a guidance draw what the test says: (t, noise) of the generator and of the critic."""

    def fix(guidance, draw, critic_draw=None):
        schedule = guidance.teacher.schedule

        def at(latents, t, noise):
            x0 = latents.detach().repeat(len(t) // len(latents), 1, 1, 1)
            return NoisyBatch.of(schedule, x0, t, noise)

        def draws(latents, views, text, scale):
            return at(latents, *draw), critic_draw and at(latents, *critic_draw)

        guidance.draws = draws
        return guidance

    return fix


@pytest.fixture
def drawn(prompt):
    """What a guidance draws for n latents of zeros."""

    def draw(guidance, n):
        angles = (torch.zeros(n), torch.zeros(n), torch.full((n,), 1.5))
        views = Views(*angles, *(torch.eye(4).expand(n, 4, 4),) * 2)
        text = guidance.conditions(prompt(), views)
        return guidance.draws(torch.zeros(n, 4, 8, 8), views, text, 7.5)

    return draw


@pytest.fixture
def counted():
    """Counts what a UNet is asked: calls, and rows without and with gradient."""

    @contextmanager
    def count(*unets):
        seen = {"calls": 0, "plain": 0, "grad": 0}

        def hook(module, args, kwargs):
            seen["calls"] += 1
            seen["grad" if torch.is_grad_enabled() else "plain"] += len(args[0])

        handles = [unet.register_forward_pre_hook(hook, with_kwargs=True) for unet in unets]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    return count
