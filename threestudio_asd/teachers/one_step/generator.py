"""A generator of one step: a teacher's UNet that takes noise for a noisy picture, and denoises it.

    x = x_0(s_T z, T),    z ~ N(0, I),

x_0 the UNet's prediction of the clean latents, T a level of the teacher's schedule and s_T its
noise; without guidance. (SiD-LSG, Zhou et al. 2024, arXiv:2406.01561. T = 625 of Stable Diffusion's
schedule has s_T / a_T = 2.5, where SiD, arXiv:2404.04057, starts.) In n steps the answer is noised
and denoised again,

    x <- x_0(a_t x + s_t z', t),    t = T (1 - i / n),    i = 1 .. n-1.

It lies in an ordinary folder in Stable Diffusion's format with a note, ``one_step.json``
(``generators.one_step`` writes it).
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.distill.prediction_types import check_prediction_type, to_x0
from threestudio_asd.distill.schedule import DiscreteSchedule
from threestudio_asd.errors import UserError
from threestudio_asd.parallel import largest_piece, map_batch, trained
from threestudio_asd.teachers.one_step.note import read_note
from threestudio_asd.teachers.recorded import Recorder
from threestudio_asd.teachers.unet import FrozenUNet, latent_shape

INIT_TIMESTEP = 625


@dataclass(frozen=True, eq=False)
class OneStepGenerator:
    """A UNet with its schedule and the level from which it draws.

    Args:
        unet: A diffusers ``UNet2DConditionModel``; whether it is trained is its owner's affair.
        schedule: The teacher's.
        init_timestep: T, from 1 on.
        prediction_type: What the UNet states, of ``distill.prediction_types``.
        compute: The precision of passes, where it is not that of the weights (autocast).

    Raises:
        UserError: T is no level of the schedule, or one at which an epsilon says nothing of x_0.
    """

    unet: nn.Module
    schedule: DiscreteSchedule
    init_timestep: int = INIT_TIMESTEP
    prediction_type: str = "epsilon"
    compute: torch.dtype | None = None
    _recorder: Recorder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_recorder", Recorder(self.unet))
        check_prediction_type(self.prediction_type)
        last = self.schedule.num_timesteps - 1
        if not 1 <= self.init_timestep <= last:
            raise UserError(
                f"init_timestep={self.init_timestep} is no level of the teacher's schedule: "
                f"choose one from 1 to {last}."
            )
        if self.prediction_type == "epsilon" and self.init_timestep > self.schedule.last_step:
            raise UserError(
                f"init_timestep={self.init_timestep} is pure noise in the teacher's schedule (zero "
                "terminal SNR), where an epsilon says nothing of the picture: choose at most "
                f"{self.schedule.last_step}, or a teacher of v_prediction."
            )

    @classmethod
    def of(cls, net: FrozenUNet, init_timestep: int = INIT_TIMESTEP) -> "OneStepGenerator":
        """A generator that shares the network of ``net``: its teacher, untrained, or one that was
        loaded.

        Raises:
            UserError: The network sees several views at once.
        """
        if net.views_at_once > 1:
            raise UserError(
                f"A generator of one step draws single pictures, and the model sees "
                f"{net.views_at_once} views at once: choose a teacher of single pictures."
            )
        return cls(net.unet, net.schedule, init_timestep, net.prediction_type)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents that the UNet was trained on."""
        return latent_shape(self.unet)

    def timesteps(self, steps: int) -> list[int]:
        """The levels T (1 - i / n), rounded down, of ``steps`` = n evaluations of the UNet.

        Raises:
            UserError: No step, or more than there are levels.
        """
        if not 1 <= steps <= self.init_timestep:
            raise UserError(f"steps={steps}: at least 1, and at most {self.init_timestep}.")
        return [self.init_timestep * (steps - i) // steps for i in range(steps)]

    def generate(
        self,
        noise: Float[Tensor, "B C h w"],
        text: Float[Tensor, "B L D"],
        steps: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """Clean latents, differentiable in the UNet's weights, in ``noise`` and in ``text``.

        Args:
            noise: z, standard normal; the result has its dtype.
            text: One embedding for each item.
            steps: How often the UNet is asked.
            generator: Draws the noise of the steps after the first; torch's own if left out.
        """
        x = torch.zeros_like(noise)
        for i, level in enumerate(self.timesteps(steps)):
            z = noise if i == 0 else _drawn_like(noise, generator)
            t = torch.full((len(noise),), level, device=noise.device)
            x_t = self.schedule.add_noise(x, z, t)
            x = to_x0(self.schedule, self._predict(x_t, t, text), x_t, t, self.prediction_type)
        return x

    def _predict(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """In the network's precision; the rest of the arithmetic in that of ``x_t``."""
        dtype, place = next(self.unet.parameters()).dtype, x_t.device.type

        def run(x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
            return self.unet(x_t, t, encoder_hidden_states=text).sample

        rows = x_t.to(dtype), t, text.to(dtype)
        with torch.autocast(place, self.compute, enabled=self.compute is not None):
            call = run
            if self.compute is None:
                call = self._recorder.of(run, largest_piece(*rows))
            return map_batch(call, *rows, parameters=trained(self.unet)).to(x_t.dtype)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        dtype: str | torch.dtype = "fp32",
        device: torch.device | str = "cpu",
    ) -> "OneStepGenerator":
        """The generator of a folder, its weights frozen.

        Raises:
            UserError: There is no such folder, it has no note, or its network is no teacher's.
        """
        note = read_note(folder)
        return cls.of(FrozenUNet.load(folder, dtype, device), note.init_timestep)


def _drawn_like(noise: Tensor, generator: torch.Generator | None) -> Tensor:
    device = noise.device if generator is None else generator.device
    return torch.randn(noise.shape, generator=generator, dtype=noise.dtype, device=device).to(noise)
