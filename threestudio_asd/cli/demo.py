"""``demo``: from a prompt to a mesh, a turntable and pictures, with the judge's opinion."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from threestudio_asd.cli.stages import TINY, plan, run_stages
from threestudio_asd.errors import UserError
from threestudio_asd.tiny.evaluation import Verdict, parse_prompt


@dataclass(frozen=True)
class Result:
    """What one prompt left behind; ``trial`` is the last stage's, ``seconds`` the wall time from
    the start to the mesh."""

    prompt: str
    trial: Path
    mesh: Path
    video: Path
    picture: Path
    verdict: Verdict
    seconds: float


def distil(
    prompt: str,
    configs: Sequence[str] = TINY[:1],
    root: str | Path = "outputs",
    plugins: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Result:
    """Train a prompt of the embedded world stage by stage, test it, export its mesh and judge it.

    Raises:
        UserError: As ``run_stages``; also if the prompt names no object and colour of the world.
    """
    from threestudio_asd.cli.trial import judge_trial

    parse_prompt(prompt)
    tag = prompt.replace(" ", "_").replace(",", "")
    out = Path(root) / "demo" / (tag + datetime.now().strftime("@%Y%m%d-%H%M%S"))
    wanted = f"system.prompt_processor.prompt={prompt}"
    began = time.time()
    trial = run_stages(plan(configs, out, [wanted, *overrides]), plugins)
    seconds = time.time() - began
    verdict, picture = judge_trial(trial, prompt)
    return Result(
        prompt=prompt,
        trial=trial,
        mesh=_newest(trial, "save/*-export/*.glb"),
        video=_newest(trial, "save/*-test.mp4"),
        picture=picture,
        verdict=verdict,
        seconds=seconds,
    )


def _newest(trial: Path, pattern: str) -> Path:
    found = sorted(trial.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"The run left no {pattern} in {trial}; see the messages above.")
    return found[-1]


def main(argv: Sequence[str], plugins: Sequence[str] = ()) -> None:
    """``threestudio-asd demo [--prompt ...] [--full] [key=value ...]``"""
    parser = argparse.ArgumentParser(prog="threestudio-asd demo", description=__doc__)
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--config", action="append", help=f"once per stage; default: {TINY[0]}")
    parser.add_argument("--full", action="store_true", help=f"all stages: {' '.join(TINY)}")
    parser.add_argument("--out", default="outputs")
    args, overrides = parser.parse_known_args(list(argv))
    configs = TINY if args.full else args.config or TINY[:1]
    result = distil(args.prompt, configs, args.out, plugins, overrides)
    print(
        f"\n{args.prompt}: trained, tested and exported in {result.seconds:.0f} s\n"
        f"{result.verdict.told()}\n"
        f"mesh       {result.mesh}\n"
        f"turntable  {result.video}\n"
        f"pictures   {result.picture} (upper row the result, lower row the true scene)"
    )
