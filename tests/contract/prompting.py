"""Facts about prompts: wording per view, order and mixture of embeddings.

Each prompt is embedded as a unit vector, so that an output names its ingredients.
"""

from typing import Any

import torch
from contract.hosts import Host
from torch import Tensor

PROMPT, NEGATIVE = "a red mug", "blurry"
# elevation and azimuth in degrees, distance
CAMERAS = [
    *((15.0, azimuth, 1.5) for azimuth in (0.0, 30.0, 44.9, 45.0, 45.1, 60.0, 89.9, 90.0)),
    *((15.0, azimuth, 1.5) for azimuth in (90.1, 120.0, 134.9, 135.0, 135.1, 179.0, 180.0)),
    *((15.0, azimuth, 1.5) for azimuth in (-180.0, -135.1, -90.0, -45.1, -10.0, 270.0, 359.0)),
    *((15.0, azimuth, 1.5) for azimuth in (400.0, 720.0)),
    *((elevation, 20.0, 2.0) for elevation in (-10.0, 59.9, 60.0, 60.1, 89.0)),
    *((elevation, 150.0, 2.0) for elevation in (60.0, 75.0)),
]
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "words-first": {"view_dependent_prompt_front": True},
    "thresholds": {"front_threshold": 60.0, "back_threshold": 30.0, "overhead_threshold": 40.0},
    "manual": {"prompt_front": "the handle", "prompt_overhead": "the rim"},
    "perp-neg": {"use_perp_neg": True, "perp_neg_f_sb": [2.0, 0.3, -0.5]},
}


def prompts(host: Host) -> dict[str, Any]:
    return {name: _facts(host, cfg) for name, cfg in CONFIGS.items()}


def _facts(host: Host, cfg: dict[str, Any]) -> dict[str, Any]:
    order: dict[str, int] = {}

    def embed(prompt: str) -> Tensor:
        return torch.eye(8)[order.setdefault(prompt, len(order))][None]

    # Numbered in this order, whatever the order in which the host embeds: 0 the prompt, 1 the
    # negative prompt, 2 and up the views' own.
    for prompt in (PROMPT, NEGATIVE):
        embed(prompt)
    processor = host.prompt_processor({"prompt": PROMPT, "negative_prompt": NEGATIVE, **cfg}, embed)
    output = processor()
    elevation, azimuth, distance = torch.tensor(CAMERAS).T
    plain = output.get_text_embeddings(elevation, azimuth, distance, False)
    viewed = output.get_text_embeddings(elevation, azimuth, distance, True)
    perp_neg, weights = output.get_text_embeddings_perp_neg(elevation, azimuth, distance, True)
    words = {index: prompt for prompt, index in order.items()}
    return {
        "directions": [d.name for d in output.directions],
        "direction2idx": output.direction2idx,
        "prompts": [output.prompt, *output.prompts_vd],
        "negative_prompts": list(processor.negative_prompts_vd),
        "use_perp_neg": output.use_perp_neg,
        "shapes": {
            name: list(getattr(output, name).shape)
            for name in (
                "text_embeddings",
                "uncond_text_embeddings",
                "text_embeddings_vd",
                "uncond_text_embeddings_vd",
            )
        },
        "view-independent": {"shape": list(plain.shape), "rows": _rows(plain, words)},
        "view-dependent": {"shape": list(viewed.shape), "rows": _rows(viewed, words)},
        "perp-neg": {
            "shape": list(perp_neg.shape),
            "rows": _rows(perp_neg, words),
            "weights": weights.tolist(),
        },
    }


def _rows(embeddings: Tensor, words: dict[int, str]) -> list[Any]:
    """Per row: the share of each prompt in it."""
    return [
        [[words[i], row[i].item()] for i in row.nonzero().flatten().tolist()]
        for row in embeddings[:, 0]
    ]
