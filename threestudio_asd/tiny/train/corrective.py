"""Train the small network that knows what tiny-shapes makes of a picture: ``lmc-sds`` reads it.

    min_r E |x + r(x, t) - x0(e_null(x_t, t))|^2,    x_t = alpha_t x + sigma_t eps

over latents x of true renders, times and noise. The teacher is asked without a prompt: the network
knows none, and what a prompt adds is what a method is after (``distill.rows.lmc``).
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from threestudio_asd.distill.prediction_types import to_x0
from threestudio_asd.files import written_whole
from threestudio_asd.stop import held
from threestudio_asd.teachers.condition import Condition
from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
from threestudio_asd.teachers.unet import CORRECTIVE, CorrectiveNet
from threestudio_asd.tiny.dataset import build
from threestudio_asd.tiny.scenes import training_pairs
from threestudio_asd.tiny.train.loop import note, run
from threestudio_asd.tiny.train.vae import encode_all, teacher_renders

MEASURED_TIMES = (100, 300, 500, 700, 900)
MEASURED_SEED = 4321  # none of the renders that it was trained on
MEASURED = 256


def new_corrective() -> CorrectiveNet:
    """The identity, to begin with: two levels, 0.4 M parameters."""
    from diffusers import UNet2DModel

    net = UNet2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        block_out_channels=(32, 48),
        layers_per_block=1,
        add_attention=False,
        norm_num_groups=8,
    )
    nn.init.zeros_(net.conv_out.weight)
    nn.init.zeros_(net.conv_out.bias)
    return CorrectiveNet(net)


class Correcting(nn.Module):
    """The network with its training loss, so that :func:`loop.run` sees one module."""

    def __init__(self) -> None:
        super().__init__()
        self.corrective = new_corrective()

    def forward(self, x0: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
        """Mean squared error to what the teacher made of x_0 at t."""
        return F.mse_loss(self.corrective(x0, t), denoised)


class Denoised:
    """What a teacher makes of noised latents without a prompt."""

    def __init__(self, teacher: StableDiffusionTeacher) -> None:
        self.teacher, self.null = teacher, teacher.embed_text([""])
        teacher.release_text_encoder()

    @torch.no_grad()
    def __call__(
        self,
        x0: Float[Tensor, "B 4 16 16"],
        t: Int[Tensor, " B"],
        noise: Float[Tensor, "B 4 16 16"],
    ) -> Float[Tensor, "B 4 16 16"]:
        """x0(e_null(x_t, t))."""
        schedule, null = self.teacher.schedule, Condition(self.null.tokens.expand(len(x0), -1, -1))
        x_t = schedule.add_noise(x0, noise, t)
        return to_x0(schedule, self.teacher.epsilon(x_t, t, null), x_t, t, "epsilon")


def held_out_latents(teacher: StableDiffusionTeacher, count: int) -> Float[Tensor, "N 4 16 16"]:
    """Latents of renders that nothing was trained on, on the teacher's device."""
    renders = build(count, MEASURED_SEED, training_pairs(), 0.0)
    return encode_all(teacher.vae, renders)


@torch.no_grad()
def measure(
    corrective: CorrectiveNet, denoised: Denoised, x0: Float[Tensor, "N 4 16 16"]
) -> dict[str, dict[str, float]]:
    """By time, root mean squares over ``x0`` and one draw of noise: how far the teacher's denoised
    latents are from the clean ones (``teacher``), and from what the network says (``network``)."""
    found = {}
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(x0)
    for time in MEASURED_TIMES:
        t = torch.full((len(x0),), time, device=x0.device)
        target = denoised(x0, t, noise)
        errors = {"teacher": x0 - target, "network": corrective(x0, t) - target}
        found[str(time)] = {k: round(e.square().mean().sqrt().item(), 4) for k, e in errors.items()}
    return found


@torch.no_grad()
def picture(
    corrective: CorrectiveNet, denoised: Denoised, x0: Float[Tensor, "N 4 16 16"]
) -> Image.Image:
    """For each of ``x0`` three rows: the clean latents, the teacher's denoised ones and the
    network's guess, decoded; a column for each of ``MEASURED_TIMES``."""
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)).to(x0)
    columns = []
    for time in MEASURED_TIMES:
        t = torch.full((len(x0),), time, device=x0.device)
        rows = torch.stack([x0, denoised(x0, t, noise), corrective(x0, t)], dim=1).flatten(0, 1)
        columns.append(torch.cat(list(denoised.teacher.decode(rows)), dim=-2))
    grid = torch.cat(columns, dim=-1).permute(1, 2, 0).cpu()
    return Image.fromarray((grid.numpy() * 255).round().astype("uint8"))


def main(
    work: Path,
    out: Path,
    steps: int = 600,
    renders: int = 4096,
    batch: int = 32,
    lr: float = 1e-3,
    seed: int = 31,
    device: str = "cpu",
) -> None:
    """Train for the model in the folder ``out``, an edition of tiny-shapes, and write to its
    sub-folder ``corrective``; pictures of what was learnt to ``work``/corrective.png."""
    teacher = StableDiffusionTeacher.from_pretrained(out, device=device)
    denoised = Denoised(teacher)
    latents = encode_all(teacher.vae, teacher_renders(work, renders, device))
    torch.manual_seed(seed)
    model = Correcting().to(device)

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        own = {"generator": generator, "device": device}
        x0 = latents[torch.randint(len(latents), (batch,), **own)]
        # One timestep per stratum: the same expectation with less variance.
        strata = torch.arange(batch, device=device) + torch.rand(batch, **own)
        t = (strata / batch * 1000).long().clamp(max=999)
        return x0, t, denoised(x0, t, torch.randn(x0.shape, **own))

    state = run(CORRECTIVE, work, model, draw, steps, lr, seed, save_every=max(100, steps // 10))
    model.load_state_dict(state)
    corrective = model.corrective.eval()
    unseen = held_out_latents(teacher, MEASURED)
    errors = measure(corrective, denoised, unseen)
    picture(corrective, denoised, unseen[:3]).save(work / f"{CORRECTIVE}.png")
    facts = {"steps": steps, "batch": batch, "renders": len(latents), "lr": lr, "seed": seed}
    note(CORRECTIVE, work, model, **facts, errors=errors)
    write(corrective, out, json.loads((work / f"{CORRECTIVE}.json").read_text()))
    for time, found in errors.items():
        print(
            f"t {time}: teacher {found['teacher']:.3f} from the render, network off by "
            f"{found['network']:.3f}"
        )
    print(f"corrective: saved to {out / CORRECTIVE}")


def write(corrective: CorrectiveNet, out: Path, report: dict) -> None:
    """The network in half precision, and its report, beside the UNet of the model ``out``."""
    folder = out / CORRECTIVE
    with held():
        corrective.net.half().save_pretrained(folder, safe_serialization=True)
        corrective.net.float()
        with written_whole(folder / "report.json") as partial:
            partial.write_text(json.dumps(report, indent=1) + "\n")
