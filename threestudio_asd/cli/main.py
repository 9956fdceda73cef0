"""``threestudio-asd``: the command line."""

import signal
import sys
from collections.abc import Callable, Sequence

from threestudio_asd import __version__, homes, stop
from threestudio_asd.errors import UserError
from threestudio_asd.files import full_disk

PLUGINS = ("threestudio_asd.guidance", "threestudio_asd.systems")


def _launch(argv: Sequence[str]) -> None:
    from threestudio_asd.studio.run import launch

    launch.main(argv, plugins=PLUGINS, prog="threestudio-asd launch")


def _stages(argv: Sequence[str]) -> None:
    from threestudio_asd.cli import stages

    stages.main(argv, plugins=PLUGINS)


def _demo(argv: Sequence[str]) -> None:
    from threestudio_asd.cli import demo

    demo.main(argv, plugins=PLUGINS)


def _edit(argv: Sequence[str]) -> None:
    from threestudio_asd.cli import edit

    edit.main(argv, plugins=PLUGINS)


def _refine(argv: Sequence[str]) -> None:
    from threestudio_asd.cli import refine

    refine.main(argv, plugins=PLUGINS)


def _judge(argv: Sequence[str]) -> None:
    from threestudio_asd.cli import judge

    judge.main(argv, plugins=PLUGINS)


def _compare(argv: Sequence[str]) -> int | None:
    from threestudio_asd.cli import compare

    return compare.main(argv, plugins=PLUGINS)


def _one_step(argv: Sequence[str]) -> None:
    from threestudio_asd.cli import one_step

    one_step.main(argv)


def _link(argv: Sequence[str]) -> None:
    from threestudio_asd.cli import link

    link.main(argv)


def _doctor(argv: Sequence[str]) -> int:
    from threestudio_asd.cli import doctor

    return doctor.main(argv)


def _convert(argv: Sequence[str]) -> None:
    from threestudio_asd.cli import convert

    convert.main(argv)


def _upstream(argv: Sequence[str]) -> int:
    from threestudio_asd.cli import upstream

    return upstream.main(argv)


# Name -> (what it does, function of the arguments that follow; returns an exit code, None for 0).
COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int | None]]] = {
    "launch": ("train, validate, test or export what a config describes", _launch),
    "stages": ("NeRF, geometry and texture one after the other, and the mesh", _stages),
    "demo": ("from a prompt to a mesh, a turntable and pictures, judged", _demo),
    "edit": ("a picture that shows one thing, made to show another", _edit),
    "refine": ("new colours for a mesh that is there, whose shape stays", _refine),
    "judge": ("what the embedded world's judge says of a finished trial", _judge),
    "compare": ("run methods over scales, prompts and seeds; a page with the figures", _compare),
    "one-step": ("train, sample and measure generators that draw in one step", _one_step),
    "link": ("put the drop-in into a threestudio checkout's custom folder", _link),
    "upstream": ("run an unmodified threestudio checkout, on a CPU too", _upstream),
    "convert": ("rid a file of weights of the objects that it holds, running none", _convert),
    "doctor": ("show what is here, what is missing and how to mend it", _doctor),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 where ``doctor`` finds that nothing can run or
    ``compare`` lost cells, 2 for an error that the user can put right, 128 + its number for a
    signal (130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        print(f"threestudio-asd {__version__}")
        return 0
    try:
        if argv[0] not in COMMANDS:
            raise UserError(f'unknown command "{argv[0]}": use {", ".join(COMMANDS)}.')
        with stop.heeded():
            homes.temporary()  # without one some libraries cannot even be imported
            homes.ensure_home()
            homes.working_folder()
            return COMMANDS[argv[0]][1](argv[1:]) or 0
    except UserError as error:
        if "--verbose" in argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        told = full_disk(error)
        if told is None or "--verbose" in argv:
            raise
        print(f"error: {told}. Make room, and run it again.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return stop.status(signal.SIGINT)
    except stop.Stopped as stopped:
        stop.drop_lost_streams()
        print(stopped, file=sys.stderr)
        return stopped.code


def _usage() -> str:
    lines = [f"  {name:<10} {text}" for name, (text, _) in COMMANDS.items()]
    return "\n".join(["usage: threestudio-asd COMMAND ...", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
