"""``python -m threestudio_asd.tiny.train judge|vae|diffusion|measure|publish``, in this order;
then, from the published model, ``multiview|measure_views|publish_views`` for a teacher that sees
four views, and ``corrective`` for the small network beside it that ``lmc-sds`` reads.

Each stage resumes where it was stopped; a signal (Ctrl-C, SIGTERM, SIGHUP) stops it after the step
that it comes in. ``publish`` and ``publish_views`` put the measured model into the package under a
name that holds a hash of its content.
"""

import argparse
import importlib
from pathlib import Path

import torch

from threestudio_asd.stop import Stopped, drop_lost_streams, heeded
from threestudio_asd.tiny import WEIGHTS, model_folder

STAGES = ("judge", "vae", "diffusion", "measure", "publish")
OF_VIEWS = ("multiview", "measure_views", "publish_views")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=(*STAGES, *OF_VIEWS, "corrective"))
    parser.add_argument("--work", type=Path, default=Path("outputs/tiny-world"))
    for number in ("steps", "batch", "renders"):
        parser.add_argument(f"--{number}", type=int, default=None)
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument("--start-from", type=Path, help="multiview: train this folder on")
    parser.add_argument("--bf16", action="store_true", default=None, help="multiview: in bfloat16")
    parser.add_argument("--device", default=None, help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stage = importlib.import_module(f"{__package__}.{args.stage}")
    names = ("steps", "batch", "renders", "lr", "device", "start_from", "bf16")
    given = {name: getattr(args, name) for name in names}
    extra = {name: value for name, value in given.items() if value is not None}
    of_views = args.work / "tiny-shapes-mv"
    out = {
        **{"judge": WEIGHTS / "judge", "publish": WEIGHTS, "publish_views": WEIGHTS},
        **{"multiview": of_views, "measure_views": of_views},
    }.get(args.stage, args.work / "tiny-shapes")
    if args.stage == "corrective":
        out = Path(model_folder("tiny-shapes"))
    try:
        with heeded():
            stage.main(args.work, out, **extra)
    except Stopped:
        drop_lost_streams()
        raise


if __name__ == "__main__":
    main()
