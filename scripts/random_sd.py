"""Write a reduced random model in Stable Diffusion's folder format.

python scripts/random_sd.py FOLDER [--prediction-type v_prediction] [--seed 0] [--sample-size 8]
"""

import argparse
from pathlib import Path

from threestudio_asd.tiny.random_sd import PREDICTION_TYPES, write_random_sd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prediction-type", choices=PREDICTION_TYPES, default="epsilon")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample-size", type=int, default=8, help="side of the latents")
    schedulers = ("DDIMScheduler", "DDPMScheduler")
    parser.add_argument("--scheduler", choices=schedulers, default="DDIMScheduler")
    arguments = parser.parse_args()
    print(write_random_sd(**vars(arguments)))


if __name__ == "__main__":
    main()
