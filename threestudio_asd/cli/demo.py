"""``demo``: from a prompt to a mesh, a turntable and pictures, with the judge's opinion.

The same command again goes on where it was stopped; after the end, or with ``--new``, it starts
anew.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from threestudio_asd import log
from threestudio_asd.cli.runs import asked, claimed_run
from threestudio_asd.cli.stages import TINY, plan, run_stages, steps_done
from threestudio_asd.errors import UserError
from threestudio_asd.tiny.evaluation import Verdict, parse_prompt


@dataclass(frozen=True)
class Result:
    """The result of one prompt; ``trial`` is the last stage's, ``seconds`` the wall time from
    the start to the mesh, of this process alone if it went on with a ``resumed`` run."""

    prompt: str
    trial: Path
    mesh: Path
    video: Path
    picture: Path
    verdict: Verdict
    seconds: float
    resumed: bool


def distil(
    prompt: str,
    configs: Sequence[str] = TINY[:1],
    root: str | Path = "outputs",
    plugins: Sequence[str] = (),
    overrides: Sequence[str] = (),
    new: bool = False,
) -> Result:
    """Train a prompt of the embedded world stage by stage, test it, export its mesh and judge it.

    The newest run of the same prompt, configs and overrides below ``root`` is gone on with if it
    was stopped before its end, unless a ``new`` one is wanted.

    Raises:
        UserError: As ``run_stages``; also if the prompt names no object and colour of the world.
        Stopped: SIGTERM or SIGHUP, or Ctrl-C in a training; the same call goes on.
    """
    from threestudio_asd.cli.trial import judge_trial

    parse_prompt(prompt)
    log.setup_logging()
    root = Path(root) / "demo"
    tag = prompt.replace(" ", "_").replace(",", "")
    given = [f"system.prompt_processor.prompt={prompt}", *overrides]
    plan(configs, root, given)  # mistakes are told before a folder is made
    with claimed_run(root, tag, asked(prompt, configs, overrides), new) as run:
        stages = plan(configs, run.folder, given)
        if run.resumed:
            done = ", ".join(f"{stage.name} at step {steps_done(stage)}" for stage in stages)
            log.info("going on with %s: %s", run.folder, done)
        began = time.time()
        trial = run_stages(stages, plugins)
        seconds = time.time() - began
        verdict, picture = judge_trial(trial, prompt)
        result = Result(
            prompt=prompt,
            trial=trial,
            mesh=_newest(trial, "save/*-export/*.glb"),
            video=_newest(trial, "save/*-test.mp4"),
            picture=picture,
            verdict=verdict,
            seconds=seconds,
            resumed=run.resumed,
        )
        run.finish()
    return result


def _newest(trial: Path, pattern: str) -> Path:
    found = sorted(trial.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"The run left no {pattern} in {trial}; see the messages above.")
    return found[-1]


def main(argv: Sequence[str], plugins: Sequence[str] = ()) -> None:
    """``threestudio-asd demo [--prompt ...] [--full] [--new] [key=value ...]``"""
    parser = argparse.ArgumentParser(prog="threestudio-asd demo", description=__doc__)
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--config", action="append", help=f"once per stage; default: {TINY[0]}")
    parser.add_argument("--full", action="store_true", help=f"all stages: {' '.join(TINY)}")
    parser.add_argument("--out", default="outputs")
    parser.add_argument("--new", action="store_true", help="do not go on with a stopped run")
    args, overrides = parser.parse_known_args(list(argv))
    configs = TINY if args.full else args.config or TINY[:1]
    result = distil(args.prompt, configs, args.out, plugins, overrides, args.new)
    since = " since it went on" if result.resumed else ""
    print(
        f"\n{args.prompt}: trained, tested and exported in {result.seconds:.0f} s{since}\n"
        f"{result.verdict.told()}\n"
        f"mesh       {result.mesh}\n"
        f"turntable  {result.video}\n"
        f"pictures   {result.picture} (upper row the result, lower row the true scene)"
    )
