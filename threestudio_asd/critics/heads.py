"""Heads of a discriminator: from features of a score network to logits."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.errors import UserError

_MAX_GROUPS = 32


class ChannelMean(nn.Module):
    """(B, K, h, w) -> (B, 1, h, w), the mean over the channels: SiDA's, without a parameter."""

    def forward(self, features: Float[Tensor, "B K h w"]) -> Float[Tensor, "B 1 h w"]:
        return features.mean(dim=1, keepdim=True)


def convolutions(channels: int, size: int, groups: int | None = None) -> nn.Sequential:
    """(B, K, size, size) -> logits (B, 1, n, n): DMD2's classifier.

    Convolution 4x4 stride 2, group norm, SiLU, convolution 4x4 stride 4 (2x2 on maps of 4), group
    norm, SiLU, convolution 1x1; one logit of the 8x8 maps of Stable Diffusion.

    Args:
        groups: Of the norms; at most 32 and a divisor of the channels by default.

    Raises:
        UserError: The maps are smaller than 4 x 4.
    """
    if size < 4:
        raise UserError(
            f"A discriminator's head needs maps of at least 4 x 4; got {size} x {size}."
        )
    groups = groups or max(n for n in range(1, _MAX_GROUPS + 1) if channels % n == 0)
    return nn.Sequential(
        nn.Conv2d(channels, channels, 4, stride=2, padding=1),
        nn.GroupNorm(groups, channels),
        nn.SiLU(),
        nn.Conv2d(channels, channels, min(4, size // 2), stride=4),
        nn.GroupNorm(groups, channels),
        nn.SiLU(),
        nn.Conv2d(channels, 1, 1),
    )


class Heads(nn.Module):
    """One head for each of some feature maps."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    @classmethod
    def of(cls, kind: str, shapes: Sequence[Sequence[int]]) -> "Heads":
        """Heads of the kind "mean" or "convolutions" for maps of ``shapes`` (K, h, w), h = w.

        Raises UserError on another kind.
        """
        if kind == "mean":
            return cls([ChannelMean() for _ in shapes])
        if kind == "convolutions":
            return cls([convolutions(channels, size) for channels, size, _ in shapes])
        raise UserError(f"Unknown head '{kind}'; choose mean or convolutions.")

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Logits of each map."""
        return tuple(head(x) for head, x in zip(self.heads, features, strict=True))
