"""``stages``: several configs one after the other, each from the geometry of the one before.

Each stage is a trial of its own, ``OUT/coarse``, ``OUT/geometry``, ``OUT/texture``; the last one is
exported. The same command again goes on where it was: finished stages stay, a stopped one is
resumed.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from threestudio_asd.errors import UserError
from threestudio_asd.files import claimed, written_whole
from threestudio_asd.stop import Stopped

SD = ("asd-nerf", "asd-geometry", "asd-texture")
TINY = tuple(f"tiny/{name}" for name in SD)


@dataclass(frozen=True)
class Stage:
    """One config of a run; ``name`` is its ``system.stage``."""

    name: str
    config: str
    trial: Path
    overrides: list[str]

    @property
    def last(self) -> Path:
        return self.trial / "ckpts/last.ckpt"

    @property
    def tested(self) -> Path:
        """Holds the step whose test is complete."""
        return self.trial / "tested.json"


def plan(configs: Sequence[str], out: Path, overrides: Sequence[str]) -> list[Stage]:
    """The stages of ``configs``, each with the overrides that are meant for it.

    Args:
        overrides: ``key=value`` for all stages, ``STAGE:key=value`` for one.

    Raises:
        UserError: No such config, the same stage twice, or an override for a stage that is not run.
    """
    from threestudio_asd.studio.config.files import find_config

    names = []
    for config in configs:
        system = OmegaConf.load(find_config(config)).get("system") or {}
        names.append(str(system.get("stage", "coarse")))
    if len(set(names)) < len(names):
        raise UserError(f"{', '.join(configs)} are the stages {', '.join(names)}: one is twice.")
    shared, own = [], {name: [] for name in names}
    for override in overrides:
        stage, colon, rest = override.partition("=")[0].partition(":")
        if not colon:
            shared.append(override)
        elif stage not in own:
            raise UserError(f"{override}: there is no stage {stage}; use {', '.join(names)}.")
        else:
            own[stage].append(override.removeprefix(f"{stage}:"))
        if (rest if colon else stage) == "resume":
            raise UserError("resume= is not needed: the same command again goes on where it was.")
    return [
        Stage(name, config, out / name, [*shared, *own[name]])
        for name, config in zip(names, configs, strict=True)
    ]


def run_stages(stages: Sequence[Stage], plugins: Sequence[str] = ()) -> Path:
    """Train and test every stage that is not finished, export the last; returns its trial folder.

    Raises:
        UserError: As the launcher; also if a stage was stopped before its end.
        Stopped: SIGTERM or SIGHUP, or Ctrl-C in a training, after that stage's test.
    """
    from threestudio_asd import log
    from threestudio_asd.studio.run import launch

    log.setup_logging()
    before = None
    for stage in stages:
        _run(stage, before, plugins)
        before = stage
    parsed = stages[-1].trial / "configs/parsed.yaml"
    export = ["--config", str(parsed), "--export", f"resume={stages[-1].last}"]
    launch.main(export, plugins=plugins)
    return stages[-1].trial


def _run(stage: Stage, before: Stage | None, plugins: Sequence[str]) -> None:
    from threestudio_asd import log
    from threestudio_asd.studio.run import launch

    values = _values(stage, before)
    wanted, done = _steps_wanted(stage, values), steps_done(stage)
    if done < wanted:
        _train(stage, values, done, wanted, plugins)
    elif _step_tested(stage) != done:
        log.info("%s: trained already (%d steps); its test, in %s", stage.name, done, stage.trial)
        test = ["--config", stage.config, "--test", *values, f"resume={stage.last}"]
        launch.main(test, plugins=plugins)
    else:
        log.info("%s: finished already (%d steps), in %s", stage.name, done, stage.trial)
        return
    with written_whole(stage.tested) as partial:
        partial.write_text(json.dumps({"step": steps_done(stage)}) + "\n")


def _train(
    stage: Stage, values: Sequence[str], done: int, wanted: int, plugins: Sequence[str]
) -> None:
    """And test."""
    from threestudio_asd import log
    from threestudio_asd.studio.run import launch

    arguments = ["--config", stage.config, "--train", *values]
    if done:
        where = (stage.name, done, wanted, stage.trial)
        log.info("%s: going on from step %d of %d, in %s", *where)
        arguments.append(f"resume={stage.last}")
    signum = launch.main(arguments, plugins=plugins, go_on="The same command goes on from there.")
    done = steps_done(stage)
    if signum is not None:
        raise Stopped(signum)
    if done < wanted:
        raise UserError(
            f"The stage {stage.name} was stopped at step {done} of {wanted}; the same command goes "
            "on from there."
        )


def _values(stage: Stage, before: Stage | None) -> list[str]:
    place = stage.trial.parent
    where = [f"exp_root_dir={place.parent}", f"name={place.name}", f"tag={stage.name}"]
    geometry = [] if before is None else [f"system.geometry_convert_from={before.last}"]
    return [*stage.overrides, *where, "use_timestamp=false", *geometry]


def _steps_wanted(stage: Stage, values: Sequence[str]) -> int:
    from threestudio_asd.studio.config.experiment import read_config
    from threestudio_asd.studio.config.files import find_config

    return int(read_config(find_config(stage.config), cli_args=values).trainer.max_steps)


def steps_done(stage: Stage) -> int:
    """How many steps the stage's last checkpoint has behind it."""
    from threestudio_asd.studio.checkpoint.store import load_checkpoint

    return int(load_checkpoint(stage.last)["global_step"]) if stage.last.is_file() else 0


def _step_tested(stage: Stage) -> int | None:
    return json.loads(stage.tested.read_text())["step"] if stage.tested.is_file() else None


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            ours = stack.enter_context(claimed(out))
        except OSError as error:
            raise UserError(f"cannot keep a run in {out}: {error}. Give another --out.") from error
        if not ours:
            raise UserError(f"{out} is being written by another process: give another --out.")
        yield


def main(argv: Sequence[str], plugins: Sequence[str] = ()) -> None:
    """``threestudio-asd stages --prompt ... --out ... [key=value ...] [STAGE:key=value ...]``

    Raises:
        UserError: As :func:`plan` and :func:`run_stages`.
    """
    parser = argparse.ArgumentParser(prog="threestudio-asd stages", description=__doc__)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of this run's trials")
    parser.add_argument(
        "--config", action="append", help=f"once for each stage; default: {' '.join(SD)}"
    )
    parser.add_argument("--tiny", action="store_true", help=f"the same as {' '.join(TINY)}")
    args, overrides = parser.parse_known_args(list(argv))
    prompt = f"system.prompt_processor.prompt={args.prompt}"
    configs = TINY if args.tiny else args.config or SD
    stages = plan(configs, args.out, [prompt, *overrides])
    with _claimed(args.out):
        trial = run_stages(stages, plugins)
    print(f"exported   {next((trial / 'save').glob('*-export'), trial)}")
