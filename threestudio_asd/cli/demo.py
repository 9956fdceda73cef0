"""``demo``: from a prompt to a mesh, a turntable and pictures, with the judge's opinion."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from threestudio_asd.errors import UserError
from threestudio_asd.tiny.evaluation import Verdict, parse_prompt


@dataclass(frozen=True)
class Result:
    """What one prompt left behind; ``seconds`` is the training's wall time."""

    prompt: str
    trial: Path
    mesh: Path
    video: Path
    picture: Path
    verdict: Verdict
    seconds: float


def distil(
    prompt: str,
    config: str = "tiny/asd-nerf",
    root: str | Path = "outputs",
    plugins: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Result:
    """Train a prompt of the embedded world, test it, export its mesh and judge it.

    Raises:
        UserError: As the launcher; also if the prompt names no object and colour of the world.
    """
    from threestudio_asd.cli.trial import judge_trial
    from threestudio_asd.studio import launch

    parse_prompt(prompt)
    tag = prompt.replace(" ", "_").replace(",", "")
    stamp = datetime.now().strftime("@%Y%m%d-%H%M%S")
    where = [f"exp_root_dir={root}", "name=demo", f"tag={tag}", f"timestamp='{stamp}'"]
    trial = Path(root) / "demo" / f"{tag}{stamp}"
    wanted = f"system.prompt_processor.prompt={prompt}"
    began = time.time()
    launch.main(["--config", config, "--train", *where, wanted, *overrides], plugins=plugins)
    seconds = time.time() - began
    parsed, last = trial / "configs/parsed.yaml", trial / "ckpts/last.ckpt"
    launch.main(["--config", str(parsed), "--export", f"resume={last}"], plugins=plugins)
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
    """``threestudio-asd demo [--prompt ...] [key=value ...]``"""
    parser = argparse.ArgumentParser(prog="threestudio-asd demo", description=__doc__)
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--config", default="tiny/asd-nerf")
    parser.add_argument("--out", default="outputs")
    args, overrides = parser.parse_known_args(list(argv))
    result = distil(args.prompt, args.config, args.out, plugins, overrides)
    print(
        f"\n{args.prompt}: trained and tested in {result.seconds:.0f} s\n"
        f"{result.verdict.told()}\n"
        f"mesh       {result.mesh}\n"
        f"turntable  {result.video}\n"
        f"pictures   {result.picture} (upper row the result, lower row the true scene)"
    )
