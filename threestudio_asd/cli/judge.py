"""``judge``: what the judge of the embedded world says of a finished trial, of either host."""

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from threestudio_asd.errors import UserError


def main(argv: Sequence[str], plugins: Sequence[str] = ()) -> None:
    """``threestudio-asd judge TRIAL [--prompt ...]``

    Raises:
        UserError: The folder is no trial, or its prompt is not of the embedded world.
    """
    parser = argparse.ArgumentParser(prog="threestudio-asd judge", description=__doc__)
    parser.add_argument("trial", type=Path, help="the folder that training printed")
    parser.add_argument("--prompt", help="what it shall show; the prompt it was trained with")
    args = parser.parse_args(list(argv))
    from threestudio_asd.cli.trial import judge_trial

    for plugin in plugins:
        import_module(plugin)
    prompt = args.prompt or _prompt(args.trial)
    verdict, picture = judge_trial(args.trial, prompt)
    print(f"{verdict.told()}\nprobability of {prompt}: {verdict.probability:.2f}")
    print(f"pictures   {picture} (upper row the result, lower row the true scene)")


def _prompt(trial: Path) -> str:
    from omegaconf import OmegaConf

    config = trial / "configs/parsed.yaml"
    if not config.is_file():
        raise UserError(f"{trial} is no trial folder: it has no configs/parsed.yaml.")
    return str(OmegaConf.load(config).system.prompt_processor.prompt)
