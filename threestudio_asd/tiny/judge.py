"""The judge: a small classifier of (object, colour) that measures results and never guides."""

import json
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from threestudio_asd.tiny import WEIGHTS
from threestudio_asd.tiny.scenes import COLORS, OBJECTS

OBJECT_NAMES = tuple(OBJECTS)
COLOR_NAMES = tuple(COLORS)
FEATURES = 96


class Judge(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] to object logits (B, 12) and colour logits (B, 8)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, 96, FEATURES)
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            stride = 2 if i < 4 else 1
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False)]
            layers += [nn.BatchNorm2d(fan_out), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.object_head = nn.Linear(FEATURES, len(OBJECT_NAMES))
        self.color_head = nn.Linear(FEATURES, len(COLOR_NAMES))

    def features(self, images: Float[Tensor, "B 3 64 64"]) -> Float[Tensor, "B 96"]:
        """Penultimate features, the space in which KID is measured."""
        return self.body(images * 2 - 1)

    def forward(
        self, images: Float[Tensor, "B 3 64 64"]
    ) -> tuple[Float[Tensor, "B 12"], Float[Tensor, "B 8"]]:
        features = self.features(images)
        return self.object_head(features), self.color_head(features)

    @torch.no_grad()
    def probability(
        self, images: Float[Tensor, "B 3 64 64"], object_name: str, color_name: str
    ) -> Float[Tensor, "B"]:
        """Probability in [0, 1] that object and colour are both the named ones."""
        objects, colors = self(images)
        p_object = objects.softmax(-1)[:, OBJECT_NAMES.index(object_name)]
        return p_object * colors.softmax(-1)[:, COLOR_NAMES.index(color_name)]

    @torch.no_grad()
    def name(self, images: Float[Tensor, "B 3 64 64"]) -> list[tuple[str, str]]:
        """The (object, colour) that each image shows, in the judge's opinion."""
        objects, colors = self(images)
        pairs = zip(objects.argmax(-1).tolist(), colors.argmax(-1).tolist(), strict=True)
        return [(OBJECT_NAMES[o], COLOR_NAMES[c]) for o, c in pairs]


def load_judge(folder: Path = WEIGHTS / "judge") -> Judge:
    """The frozen judge in eval mode. Raises FileNotFoundError where the folder has no weights."""
    judge = Judge()
    judge.load_state_dict(load_file(folder / "judge.safetensors"))
    return judge.eval().requires_grad_(False)


def load_report(folder: Path = WEIGHTS / "judge") -> dict:
    """The measurements made when the judge was frozen (accuracy, confusion matrices, SHA-256)."""
    return json.loads((folder / "report.json").read_text())
