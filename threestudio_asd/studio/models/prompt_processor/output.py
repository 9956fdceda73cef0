"""The embeddings of one prompt, chosen by camera."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.studio.models.prompt_processor.directions import (
    DirectionConfig,
    direction_index,
    shift_azimuth_deg,
)

#: (a, b, c) of the decay a exp(-b r) + c.
Decay = tuple[float, float, float]


@dataclass
class PromptProcessorOutput:
    """The ``prompt_utils`` of guidances; ``_vd`` is side, front, back, overhead."""

    text_embeddings: Float[Tensor, "1 L D"]
    uncond_text_embeddings: Float[Tensor, "1 L D"]
    text_embeddings_vd: Float[Tensor, "4 L D"]
    uncond_text_embeddings_vd: Float[Tensor, "4 L D"]
    directions: list[DirectionConfig]
    direction2idx: dict[str, int]
    use_perp_neg: bool
    perp_neg_f_sb: Decay
    perp_neg_f_fsb: Decay
    perp_neg_f_fs: Decay
    perp_neg_f_sf: Decay
    prompt: str
    prompts_vd: list[str]

    def get_text_embeddings(
        self,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        view_dependent_prompting: bool = True,
    ) -> Float[Tensor, "BB L D"]:
        """(2B, L, D): the B conditional embeddings first, then the B unconditional ones.

        Angles are in degrees.
        """
        if view_dependent_prompting:
            index = direction_index(self.directions, elevation, azimuth, camera_distances)
            cond, uncond = self.text_embeddings_vd[index], self.uncond_text_embeddings_vd[index]
        else:
            batch = elevation.shape[0]
            cond = self.text_embeddings.expand(batch, -1, -1)
            uncond = self.uncond_text_embeddings.expand(batch, -1, -1)
        return torch.cat([cond, uncond])

    def get_text_embeddings_perp_neg(
        self,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        view_dependent_prompting: bool = True,
    ) -> tuple[Float[Tensor, "BBBB L D"], Float[Tensor, "B 2"]]:
        """(4B, L, D) and weights (B, 2): positive B, unconditional B, negatives 2B item by item.

        Between front and side, and between side and back, the positive embedding is interpolated
        with the azimuth (Perp-Neg, arXiv:2304.04968, section 4); negatives and their weights
        (<= 0) follow. Overhead has no negatives: two unconditional ones of weight 0.

        Raises UserError without ``view_dependent_prompting``.
        """
        if not view_dependent_prompting:
            raise UserError(
                "Perp-neg works with view-dependent prompts only: set view_dependent_prompting: "
                "true, or use_perp_neg: false."
            )
        side, front, back, overhead = self.text_embeddings_vd
        index = direction_index(self.directions, elevation, azimuth, camera_distances)
        uncond = self.uncond_text_embeddings_vd[index]
        angle = shift_azimuth_deg(azimuth).abs()
        front_half, above = angle < 90.0, index == self.direction2idx["overhead"]
        # 1 at the nearer end of each half (front; side), 0 at the farther one (side; back).
        r = torch.where(front_half, 1.0 - angle / 90.0, 2.0 - angle / 90.0)
        weights = torch.where(
            front_half[:, None],
            torch.stack([_decay(self.perp_neg_f_fs, r), _decay(self.perp_neg_f_sf, 1.0 - r)], 1),
            torch.stack([_decay(self.perp_neg_f_sb, r), _decay(self.perp_neg_f_fsb, r)], 1),
        )
        weights = weights.masked_fill(above[:, None], 0.0)

        front_half, above = _column(front_half, side), _column(above, side)
        r = _column(r, side)
        nearer, farther = torch.where(front_half, front, side), torch.where(front_half, side, back)
        positive = torch.where(above, overhead, r * nearer + (1.0 - r) * farther)
        first = torch.where(above, uncond, nearer)
        second = torch.where(above, uncond, torch.where(front_half, side, front))
        negatives = torch.stack([first, second], dim=1).flatten(0, 1)
        return torch.cat([positive, uncond, negatives]), -weights


def _decay(coefficients: Decay, r: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    a, b, c = coefficients
    return a * torch.exp(-b * r) + c


def _column(values: Tensor, embedding: Float[Tensor, "L D"]) -> Tensor:
    """(B,) as (B, 1, 1) on the embeddings' device."""
    return values.to(embedding.device)[:, None, None]
