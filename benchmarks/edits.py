"""Edits of pictures of the embedded world against the truth: DDS, ASD's pair, and SDS from the
picture.

    python benchmarks/edits.py [key=value ...]

24 changes of colour and 16 of the object, each of one true picture, by each method. Of a result:

- whether the judge names the target, and the probability that it gives it;
- of changes of colour, IoU of its silhouette (what is not the grey of the background) with the
  original's, and PSNR against the true picture of the target;
- the root mean square change of the background, the pixels a little off the original's silhouette;

and of all results of a method KID to true renders of their targets, in the judge's features (it
tells little: as sets, originals and targets are much alike).
"unedited" is the original through the autoencoder: what no edit can be better than in IoU and in
the change of the background. Intervals are 95 % of a bootstrap over the pairs. Records are kept in
benchmarks/results/edits.json as they come; a second run goes on where the first was ended. Pictures
are kept beside them (edits.png: a column for each of some pairs, the original first).
"""

import argparse
import base64
import io
import json
import os
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
from threestudio_asd.compare.measure.metrics import kid
from threestudio_asd.compare.measure.reference import place, truth_images
from threestudio_asd.compare.records import save_picture
from threestudio_asd.tiny.captions import caption
from threestudio_asd.tiny.evaluation import iou
from threestudio_asd.tiny.judge import load_judge
from threestudio_asd.tiny.render import EVAL_GREY, fixed_views
from threestudio_asd.tiny.scenes import COLORS, OBJECTS

CONFIG = "tiny/asd-2d-edit"
METHODS = ("dds", "asd-pair", "sds")
#: With which the settings were chosen: no pairs of the grid.
CHOSEN_WITH = [
    (("mug", "red"), ("mug", "blue")),
    (("chair", "yellow"), ("chair", "purple")),
]
#: What served DDS and ASD's pair best there, of a dozen trials: small times keep the shape, and
#: then steps have to be large. All edit within the mask that the two prompts make.
COMMON = [
    "system.mask=auto",
    "trainer.max_steps=30",
    "trainer.enable_progress_bar=false",
    "system.guidance.max_step_percent=0.3",
]
SETTINGS = {
    "dds": ["system.optimizer.params.particles.lr=30"],
    "asd-pair": [
        "system.optimizer.params.particles.lr=15",
        "system.optimizer.params.guidance.lr=0.003",
        "system.guidance.min_step_percent=0.15",
    ],
    "sds": ["system.optimizer.params.particles.lr=30"],  # never tuned: it makes speckle
    "unedited": ["trainer.max_steps=1", "system.optimizer.params.particles.lr=0"],
}
SEEN = 0.08  # a channel's difference from the background where something is seen
MARGIN = 3  # pixels around a silhouette that are no background
RESAMPLES = 2000
TRUE = 32  # renders of each target for KID

Pair = tuple[str, str]


def grid() -> list[tuple[Pair, Pair, int]]:
    """(from, to, view): every object twice to another colour, and 16 changes of the object."""
    objects, colors = list(OBJECTS), list(COLORS)
    found = []
    for i, name in enumerate(objects):
        for turn in (0, 1):
            source, target = colors[(i + 3 * turn) % 8], colors[(i + 3 * turn + 2 + i % 3) % 8]
            found.append(((name, source), (name, target), (2 * i + 3 * turn + 1) % 8))
    found = [(a, b, v) for a, b, v in found if (a, b) not in CHOSEN_WITH]
    changed = []
    for i in range(16):
        source, target = objects[i % 12], objects[(i + 1 + i // 4) % 12]
        color = colors[(3 * i) % 8]
        changed.append(((source, color), (target, color), (3 * i) % 8))
    return found + changed


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


def measured(images: Tensor, source: Pair, target: Pair, view: int) -> dict[str, Any]:
    """The figures of one edit."""
    original, coverage = (x[view : view + 1] for x in fixed_views(*source))
    judge = load_judge()
    near = F.max_pool2d(coverage, 2 * MARGIN + 1, stride=1, padding=MARGIN) > 0
    background = (~near).expand_as(images)
    found = {
        "probability": float(judge.probability(images, *target).mean()),
        "right": float(judge.name(images)[0] == target),
        "background_change": float((images - original)[background].square().mean().sqrt()),
    }
    if source[0] == target[0]:
        true, where = (x[view : view + 1] for x in fixed_views(*target))
        found["iou"] = float(iou(silhouettes(images), silhouettes(original)).mean())
        found["psnr"] = psnr(images, true, where)
    return {name: round(value, 4) for name, value in found.items()}


def one(source: Pair, target: Pair, view: int, method: str, given: list[str]) -> dict[str, Any]:
    """The record of one edit, with its picture."""
    original = fixed_views(*source)[0][view : view + 1]
    prompts = tuple(caption(*pair, None, False) for pair in (source, target))
    began = time.process_time()
    values = [*COMMON, *SETTINGS.get(method, []), *given]
    images = edited(original, prompts, "dds" if method == "unedited" else method, values)
    seconds = round(time.process_time() - began, 1)
    record = {"from": source, "to": target, "view": view, "method": method}
    record |= measured(images, source, target, view)
    return {**record, "cpu_seconds": seconds, "picture": packed(images[0])}


def packed(image: Tensor) -> str:
    """A PNG as text."""
    stream = io.BytesIO()
    pixels = (image.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def unpacked(text: str) -> Tensor:
    """(3, 64, 64) in [0, 1]."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
        return pixels.view(image.height, image.width, 3).permute(2, 0, 1) / 255


def table(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means with intervals, by kind of change and method, of the pairs that all methods have; all
    methods share the resampled pairs."""
    rows, methods = [], list(dict.fromkeys(r["method"] for r in records))
    for kind in ("colour", "object"):
        of_pair: dict[str, dict[str, dict[str, Any]]] = {}
        for r in records:
            if (r["from"][0] == r["to"][0]) == (kind == "colour"):
                of_pair.setdefault(_key(r), {})[r["method"]] = r
        whole = [own for own in of_pair.values() if len(own) == len(methods)]
        generator = torch.Generator().manual_seed(0)
        which = torch.randint(len(whole), (RESAMPLES, len(whole)), generator=generator)
        counts = torch.zeros(RESAMPLES, len(whole))
        counts.scatter_add_(1, which, torch.ones_like(counts))
        for method in methods:
            rows.append({"change": kind, "method": method, "pairs": len(whole)})
            rows[-1] |= _means([own[method] for own in whole], counts)
    return rows


def _key(record: dict[str, Any]) -> str:
    return json.dumps([record["from"], record["to"], record["view"]])


def _means(own: list[dict[str, Any]], counts: Tensor) -> dict[str, Any]:
    found = {}
    for name in ("right", "probability", "iou", "psnr", "background_change", "cpu_seconds"):
        if name in own[0]:
            values = torch.tensor([r[name] for r in own])
            found[name] = _estimate(values.mean(), counts @ values / len(own))
    judge, folder = load_judge(), place().folder()
    with torch.no_grad():
        images = torch.stack([unpacked(r["picture"]) for r in own])
        features = judge.features(images)
        targets = sorted({tuple(r["to"]) for r in own})
        truth = torch.cat([judge.features(truth_images(*t, folder, TRUE)) for t in targets])
    draws = kid(truth, features, counts)
    found["kid"] = _estimate(kid(truth, features), draws)
    return found


def _estimate(value: Tensor, draws: Tensor) -> list[float]:
    low, high = draws.double().nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return [round(float(x), 4) for x in (value, low, high)]


def sheet(records: list[dict[str, Any]], count: int = 12) -> Tensor:
    """Some pairs as columns: the original, and what each method made of it."""
    pairs = [_key(r) for r in records]
    distinct = list(dict.fromkeys(pairs))
    shown = distinct[:: max(1, len(distinct) // count)][:count]
    columns = []
    for pair in shown:
        source, _, view = json.loads(pair)
        own = [r for r, key in zip(records, pairs, strict=True) if key == pair]
        pictures = [fixed_views(*source)[0][view]]
        pictures += [unpacked(r["picture"]) for r in own if r["method"] != "unedited"]
        columns.append(torch.cat(pictures, dim=1))
    height = min(c.shape[1] for c in columns)
    return torch.stack([c[:, :height] for c in columns])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--pairs", type=int, help="only so many of the grid")
    parser.add_argument("--out", default="edits", help="name of the report")
    args, overrides = parser.parse_known_args()
    for module in ("threestudio_asd.studio.data", "threestudio_asd.studio.models", *PLUGINS):
        __import__(module)
    described = report.describe(torch.device("cpu"))
    path = report.RESULTS / f"{args.out}.json"
    kept = json.loads(path.read_text()) if path.is_file() else {"edits": []}
    if kept["edits"] and kept["overrides"] != overrides:
        raise SystemExit(f"{path} has other settings: give another --out.")
    records = kept["edits"]
    done = {json.dumps([r["from"], r["to"], r["view"], r["method"]]) for r in records}
    for source, target, view in grid()[: args.pairs]:
        for method in ("unedited", *args.methods):
            if json.dumps([source, target, view, method]) in done:
                continue
            records.append(json.loads(json.dumps(one(source, target, view, method, overrides))))
            told = {k: v for k, v in records[-1].items() if k != "picture"}
            print(told, flush=True)
            partial = path.with_suffix(".partial")
            partial.write_text(
                json.dumps({**described, "overrides": overrides, "edits": records}, indent=1) + "\n"
            )
            os.replace(partial, path)
    rows = table(records)
    report.write(args.out, {**described, "overrides": overrides, "table": rows, "edits": records})
    save_picture(path.with_suffix(".png"), sheet(records))
    for row in rows:
        print(row)
    print(Path(path))


if __name__ == "__main__":
    main()
