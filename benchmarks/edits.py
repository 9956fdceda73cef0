"""Edits of pictures of the embedded world against the truth: DDS, ASD's pair, and SDS from the
picture.

    python benchmarks/edits.py

True pictures from four sides are edited together, once for each pair of prompts. Of each result:

- the judge's probability of the target, and how many pictures it names right;
- IoU of its silhouette (what is not the grey of the background) with the original's;
- the root mean square change of the background, the pixels a little off the original's silhouette;
- of edits of the colour alone, PSNR against the true picture of the target.

"unedited" is the original through the autoencoder: what no edit can be better than in the last
two. Writes benchmarks/results/edits.json and edits.png: a row for each method, the original first.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import report
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from threestudio_asd import homes
from threestudio_asd.cli.main import PLUGINS
from threestudio_asd.compare.measure.foreign import psnr
from threestudio_asd.compare.records import save_picture
from threestudio_asd.tiny.captions import caption
from threestudio_asd.tiny.evaluation import iou
from threestudio_asd.tiny.judge import load_judge
from threestudio_asd.tiny.render import EVAL_GREY, fixed_views

CONFIG = "tiny/asd-2d-edit"
EDITS = [
    (("mug", "red"), ("mug", "blue")),
    (("house", "green"), ("house", "pink")),
    (("cube", "yellow"), ("sphere", "yellow")),
    (("cone", "green"), ("tree", "green")),
]
METHODS = ("dds", "asd-pair", "sds")
VIEWS = slice(0, 8, 2)
SEEN = 0.08  # a channel's difference from the background where something is seen
MARGIN = 3  # pixels around a silhouette that are no background


def silhouettes(images: Tensor) -> Tensor:
    """(N, 64, 64), of pictures on grey."""
    return (images - EVAL_GREY).abs().amax(1) > SEEN


def edited(source: Tensor, prompts: tuple[str, str], method: str, overrides: list[str]) -> Tensor:
    """The pictures (N, 3, 64, 64) of ``source`` after a training."""
    from threestudio_asd.compare.run.train import train
    from threestudio_asd.studio.config.experiment import load_config
    from threestudio_asd.studio.config.files import find_config

    with homes.scratch() as folder:
        (folder / "originals").mkdir()
        for i, image in enumerate(source):
            pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
            Image.fromarray(pixels).save(folder / f"originals/{i}.png")
        values = [
            f"system.originals={folder}/originals",
            f"system.n_particles={len(source)}",
            f"data.batch_size={len(source)}",
            f"system.guidance.texts.reference_cond={prompts[0]}",
            f"system.prompt_processor.prompt={prompts[1]}",
            f"system.guidance.method={method}",
            f"exp_root_dir={folder}/out",
            *overrides,
        ]
        cfg = load_config(find_config(CONFIG), cli_args=values)
        return train(cfg, folder).images


def measured(images: Tensor, source: tuple, target: tuple, coverage: Tensor) -> dict[str, Any]:
    """The figures of one edit."""
    original = fixed_views(*source)[0][VIEWS]
    judge = load_judge()
    near = F.max_pool2d(coverage, 2 * MARGIN + 1, stride=1, padding=MARGIN) > 0
    background = (~near).expand_as(images)
    found = {
        "probability": float(judge.probability(images, *target).mean()),
        "right": sum(pair == target for pair in judge.name(images)),
        "silhouette_iou": float(iou(silhouettes(images), coverage[:, 0] > 0.5).mean()),
        "background_change": float((images - original)[background].square().mean().sqrt()),
    }
    if source[0] == target[0]:
        true, where = (pictures[VIEWS] for pictures in fixed_views(*target))
        found["psnr"] = psnr(images, true, where)
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--out", default="edits", help="name of the report")
    args, overrides = parser.parse_known_args()
    for module in ("threestudio_asd.studio.data", "threestudio_asd.studio.models", *PLUGINS):
        __import__(module)
    rows, pictures = [], []
    for source, target in EDITS:
        original, coverage = (pictures[VIEWS] for pictures in fixed_views(*source))
        prompts = tuple(caption(*pair, None, False) for pair in (source, target))
        column = [original]
        for method in ("unedited", *args.methods):
            began = time.time()
            steps = ["trainer.max_steps=1", "system.optimizer.params.particles.lr=0"]
            given = ("dds", [*overrides, *steps]) if method == "unedited" else (method, overrides)
            images = edited(original, prompts, *given)
            row = {"from": prompts[0], "to": prompts[1], "method": method}
            row |= measured(images, source, target, coverage)
            rows.append({**row, "seconds": round(time.time() - began, 1)})
            print(rows[-1], flush=True)
            column.append(images)
        pictures.append(torch.cat(column, dim=2))
    described = report.describe(torch.device("cpu"))
    path = report.write(args.out, {**described, "overrides": overrides, "edits": rows})
    save_picture(path.with_suffix(".png"), torch.cat(pictures))
    print(Path(path))


if __name__ == "__main__":
    main()
