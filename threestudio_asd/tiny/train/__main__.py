"""``python -m threestudio_asd.tiny.train judge|vae|diffusion [--work DIR] [--out DIR]``"""

import argparse
import importlib
from pathlib import Path

import torch

from .. import WEIGHTS

STAGES = {"judge": "judge", "vae": "tiny-shapes", "diffusion": "tiny-shapes"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, default=Path("outputs/tiny-world"))
    parser.add_argument("--out", type=Path, default=None, help="default: the package's weights")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stage = importlib.import_module(f"{__package__}.{args.stage}")
    extra = {} if args.steps is None else {"steps": args.steps}
    stage.main(args.work, args.out or WEIGHTS / STAGES[args.stage], **extra)


if __name__ == "__main__":
    main()
