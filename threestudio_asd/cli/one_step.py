"""``one-step``: generators that draw a picture in one step, trained from a teacher."""

import argparse
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.files import make_folder, written_whole

PROG = "threestudio-asd one-step"
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(f"{message} (see --help)")


def parser() -> argparse.ArgumentParser:
    """Three commands; ``train`` takes ``key=value`` besides."""
    p = _Parser(prog=PROG, description=__doc__, allow_abbrev=False)
    # An error of a command names that command's own help.
    commands = p.add_subparsers(dest="command", required=True, parser_class=_Parser)
    train = commands.add_parser("train", help="train a generator", allow_abbrev=False)
    train.add_argument("--config", default="tiny/sida", help="path or short name of a config")
    sample = commands.add_parser("sample", help="pictures of prompts", allow_abbrev=False)
    sample.add_argument("folder", type=Path, help="a generator: <out>/model of a training")
    sample.add_argument("--prompt", nargs="+", required=True, help="one row of pictures for each")
    sample.add_argument("--count", type=int, default=8, help="pictures of each prompt")
    sample.add_argument("--steps", type=int, default=1, help="evaluations of the network")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--out", type=Path, default=Path("outputs/one-step/samples.png"))
    evaluate = commands.add_parser(
        "evaluate", help="figures beside the teacher's, in the embedded world", allow_abbrev=False
    )
    evaluate.add_argument("folders", type=Path, nargs="+", help="generators")
    evaluate.add_argument("--samples", type=int, default=1024, help="pictures of each")
    evaluate.add_argument("--truth", type=int, default=4096, help="true renders to measure against")
    evaluate.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    evaluate.add_argument(
        "--scales", type=float, nargs="*", default=[1.0, 1.5, 4.0], help="of the teacher's 25 steps"
    )
    evaluate.add_argument("--teacher", help="default: the one that the generators name")
    evaluate.add_argument("--seed", type=int, default=3, help="of the noise")
    evaluate.add_argument("--out", type=Path, default=Path("outputs/one-step/evaluation"))
    for command in (train, sample, evaluate):
        command.add_argument("--gpu", default="0", help="which CUDA device, counted from 0")
        command.add_argument("--verbose", action="store_true", help="debug messages, tracebacks")
    return p


def main(argv: Sequence[str]) -> None:
    """Run ``argv``.

    Raises:
        UserError: whatever the person at the keyboard can put right.
        Stopped: a signal ended a training, which has saved its last step.
    """
    args, rest = parser().parse_known_args(list(argv))
    log.setup_logging(args.verbose)
    from threestudio_asd.studio.run.launch import choose_gpu

    choose_gpu(args.gpu)
    if args.command == "train":
        return _train(args, rest)
    if rest:
        raise UserError(f"{args.command}: unknown argument {rest[0]} (see --help).")
    commands = {"sample": _sample, "evaluate": _evaluate}
    return commands[args.command](args, argv)


def _train(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    from threestudio_asd.generators.config import load

    cfg = load(args.config, overrides)  # what is wrong with it is told before seconds of imports
    from threestudio_asd.generators.run import run

    print(run(cfg))


def _sample(args: argparse.Namespace, argv: Sequence[str]) -> None:
    if args.count < 1:
        raise UserError(f"--count {args.count}: at least 1.")
    if args.out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {args.out}: a picture's name, ending in {' or '.join(FORMATS)}.")
    from threestudio_asd.generators.samples import decoded, generator_latents, sheet
    from threestudio_asd.pretrained.text_encoder import TextEncoder
    from threestudio_asd.studio.device import get_device
    from threestudio_asd.teachers.diffusers import StableDiffusionTeacher
    from threestudio_asd.teachers.one_step import OneStepGenerator, read_note

    note = read_note(args.folder)
    _prepare()
    teacher = StableDiffusionTeacher.from_pretrained(args.folder, device=get_device())
    if told := TextEncoder(teacher.folder).unknown_told(args.prompt):
        log.warn(told)
    generator = OneStepGenerator.of(teacher.net, note.init_timestep)
    captions = [prompt for prompt in args.prompt for _ in range(args.count)]
    began = time.perf_counter()
    latents = generator_latents(generator, teacher, captions, args.steps, args.seed)
    images = decoded(teacher, latents)
    spent = time.perf_counter() - began
    make_folder(args.out.parent, "use --out")
    with written_whole(args.out) as partial:
        sheet(images, args.count).save(partial, format=FORMATS[args.out.suffix.lower()])
    print(f"{args.out}: {len(images)} pictures in {spent:.2f} s")


def _evaluate(args: argparse.Namespace, argv: Sequence[str]) -> None:
    from threestudio_asd.generators.measure.evaluate import Request, evaluate
    from threestudio_asd.generators.measure.report import write_page

    request = Request(
        *(args.folders, args.teacher, args.steps, args.scales),
        *(args.samples, args.truth, args.seed),
    )
    _prepare()
    results = evaluate(request)
    command = f"{PROG} {shlex.join(argv)}"
    from threestudio_asd.compare.run.machine import describe

    out = make_folder(args.out, "use --out")
    print(results.save(out, [command], describe()))
    print(write_page(results, out, [command], describe()))


def _prepare() -> None:
    from threestudio_asd.parallel import set_pieces
    from threestudio_asd.studio.device import prepare_cpu

    prepare_cpu()
    set_pieces(2)  # as trainings do
