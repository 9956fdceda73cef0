"""``doctor``: what is here, what is missing, and how to mend it."""

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import threestudio_asd
from threestudio_asd import requirements
from threestudio_asd.cli.fit import fit, is_model, verdict
from threestudio_asd.cli.places import Mark, places
from threestudio_asd.dropin.checkout import open_checkout
from threestudio_asd.errors import UserError
from threestudio_asd.pretrained import resolve
from threestudio_asd.studio.config.files import packaged_configs
from threestudio_asd.tiny import model_folder

if TYPE_CHECKING:
    from rich.console import Console

EMBEDDED = "tiny-shapes"
#: threestudio's compiled extensions.
EXTENSIONS = ("tinycudann", "nerfacc", "nvdiffrast")
#: What lies in a checkout's custom/threestudio-asd, in words.
DROPINS = {
    "absent": "no drop-in, so its own launch.py does not know ASD (threestudio-asd link {0})",
    "clone": "the drop-in is a clone",
    "linked": "the drop-in is linked",
    "foreign": "custom/threestudio-asd is not ours (move it away, then threestudio-asd link {0})",
}
# Imports a checkout's threestudio as it would be run, and registers the plugin.
TRIAL = (
    "from pathlib import Path\nfrom threestudio_asd.cli import upstream_run as r\nr.prepare(Path())"
)


@dataclass(frozen=True)
class Row:
    """One finding: what, whether it is well, and what there is to say."""

    name: str
    mark: Mark
    text: str


@dataclass
class Report:
    """All findings, by section, and what follows from them."""

    sections: dict[str, list[Row]] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    mend: list[str] = field(default_factory=list)


def examine(
    checkout: Path | None = None, models: Sequence[str] = (), offline: bool = False
) -> Report:
    """Look at everything; starts no training and downloads nothing.

    Args:
        checkout: A folder that should be a checkout of threestudio.
        models: Folders or hub ids to look for besides those that our configs name.
        offline: Do not ask the hub.
    """
    report = Report()
    libraries = {**requirements.PLUGIN, **requirements.BUNDLED}
    wrong = requirements.problems(libraries, try_import=True)
    report.sections["Host"] = list(_host(wrong))
    report.sections["Libraries"] = [_library(name, wrong.get(name)) for name in libraries]
    report.sections["Devices"] = list(_devices())
    report.sections["Folders"] = [Row(*found) for found in places()]
    report.sections["Extensions"] = list(_extensions(wrong))
    if checkout is not None:
        report.sections["Checkout"] = list(_checkout(checkout))
    report.sections["Models"] = _models(models, offline)
    _conclude(report, wrong)
    return report


def _conclude(report: Report, wrong: dict[str, str]) -> None:
    if old := requirements.python_problem():
        report.mend.append(f"{old}.")
    if wrong:
        report.mend.append(requirements.install_command(wrong))
    homeless = [row.text for row in report.sections.get("Folders", []) if row.mark == "no"]
    report.mend += homeless
    if all(row.mark != "yes" for row in report.sections["Models"]):
        report.mend.append("no model answers; name a folder or hub id that does with --model.")
        return
    cuda = any(row.name.startswith("cuda") for row in report.sections["Devices"])
    if not (old or wrong or homeless):
        report.runs.append(f"on the bundled host, on {'CUDA' if cuda else 'the CPU'}")
    checkout = report.sections.get("Checkout", [])
    if checkout and all(row.mark != "no" for row in checkout):
        report.runs.append(f"in {checkout[0].name} (threestudio-asd upstream)")


def _host(wrong: dict[str, str]) -> Iterator[Row]:
    old = requirements.python_problem()
    yield Row("Python", "no" if old else "yes", old or platform.python_version())
    where = Path(threestudio_asd.__file__).parent
    yield Row("threestudio-asd", "yes", f"{threestudio_asd.__version__}, {where}")
    well = "usable: threestudio-asd launch, threestudio-asd demo"
    lacking = f"not usable: {', '.join(wrong)} (see below)"
    yield Row("bundled host", "no" if wrong else "yes", lacking if wrong else well)
    # By path: in a process that runs the bundled host, the seam refuses to import the other one.
    spec = PathFinder.find_spec("threestudio")
    where = spec.origin if spec and spec.origin else "none installed; give a checkout's folder"
    yield Row("threestudio", "yes" if spec else "partly", where)


def _library(name: str, wrong: str | None) -> Row:
    if wrong:
        return Row(name, "no", wrong)
    version = requirements.installed(name) or ""
    specifier = {**requirements.PLUGIN, **requirements.BUNDLED}[name]
    limit = requirements.bound(specifier, "<")
    if limit and not requirements.older(version, limit):
        return Row(name, "partly", f"{version}, newer than tested ({specifier})")
    return Row(name, "yes", version)


def _devices() -> Iterator[Row]:
    name = platform.processor() or platform.machine()
    try:
        import torch

        from threestudio_asd.cores import cores

        free = cores()
    except Exception:  # the libraries' section tells why
        yield Row("cpu", "yes", f"{os.cpu_count()} cores, {name}")
        return
    yield Row("cpu", "yes", f"{os.cpu_count()} cores, {free} to be used, {name}")
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = f"{device.total_memory / 2**30:.0f} GiB"
        yield Row(f"cuda:{index}", "yes", f"{device.name}, {memory}, CUDA {torch.version.cuda}")
    if not torch.cuda.device_count():
        build = "no GPU is visible" if torch.version.cuda else f"torch {torch.__version__} has none"
        yield Row("no CUDA", "partly", f"{build}; everything runs on the CPU")


def _extensions(wrong: dict[str, str]) -> Iterator[Row]:
    """Whether threestudio's compiled extensions are real here, by one tiny call each."""
    if "warp-lang" in wrong or "torch" in wrong:
        yield Row("warp", "no", wrong.get("warp-lang") or wrong["torch"])
        return
    yield Row("warp", "yes", "real")
    from threestudio_asd.portable import unusable

    reasons = unusable()
    for name in EXTENSIONS:
        if name in reasons:
            yield Row(name, "partly", f"stand-in under threestudio-asd upstream ({reasons[name]})")
        else:
            yield Row(name, "yes", f"real, {find_spec(name).origin}")


def _checkout(path: Path) -> Iterator[Row]:
    try:
        checkout = open_checkout(path)
    except UserError as error:
        yield Row(str(path), "no", str(error))
        return
    mark = "yes" if checkout.state in ("clone", "linked") else "partly"
    text = DROPINS[checkout.state].format(checkout.path)
    yield Row(str(checkout.path), mark, f"threestudio {checkout.version}; {text}")
    package = Path(threestudio_asd.__file__).parent.parent
    paths = (str(package), os.environ.get("PYTHONPATH", ""))
    done = subprocess.run(
        [sys.executable, "-c", TRIAL],
        cwd=checkout.path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        yield Row("import", "yes", "threestudio and ASD can be imported there")
    else:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield Row("import", "no", reason.partition("UserError: ")[2] or reason)


def _models(wanted: Sequence[str], offline: bool) -> list[Row]:
    try:
        rows = [Row(EMBEDDED, "yes", f"embedded: {model_folder(EMBEDDED)}")]
    except UserError as error:
        rows = [Row(EMBEDDED, "no", str(error))]
    ids = dict.fromkeys((*config_models(), *wanted))
    # Each waits for the hub up to ten seconds: together, not one after the other.
    with ThreadPoolExecutor(max_workers=len(ids) or 1) as pool:
        return rows + list(pool.map(lambda model: _model(model, offline), ids))


def config_models() -> list[str]:
    """The hub ids that the shipped configs name."""
    texts = (path.read_text() for path in sorted(packaged_configs().rglob("*.yaml")))
    found = (re.findall(r"pretrained_model_name_or_path\w*: *([\w./-]+)", text) for text in texts)
    return sorted({name for names in found for name in names})


def _model(name: str, offline: bool) -> Row:
    try:
        return Row(name, "yes", resolve.whereabouts(name, offline=offline))
    except UserError as error:
        return Row(name, "partly", str(error).removeprefix(f"Cannot load the model '{name}': "))


def show(report: Report) -> None:
    """Print the report as tables."""
    from rich.text import Text

    console = _print_tables(report.sections)
    verdict = f"ASD can run {'; '.join(report.runs)}." if report.runs else "ASD cannot run here."
    console.print(Text(verdict, "bold green" if report.runs else "bold red"))
    for line in report.mend:
        console.print(Text(f"To mend it: {line}"), soft_wrap=True)


def _show_fit(model: str | None, lora: str | None, offline: bool) -> int:
    from rich.text import Text

    sections = fit(model, lora, offline)
    console = _print_tables({title: [Row(*row) for row in sections[title]] for title in sections})
    well, text = verdict(sections)
    console.print(Text(text, "bold green" if well else "bold red"))
    return 0 if well else 1


def _print_tables(sections: dict[str, list[Row]]) -> "Console":
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    style = {"yes": "green", "partly": "yellow", "no": "red"}
    sign = {"yes": "ok", "partly": "-", "no": "no"}
    for title, rows in sections.items():
        console.print(Text(title, "bold"))
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for overflow in ("ignore", "fold", "fold"):  # nothing is cut: paths are there to be copied
            table.add_column(overflow=overflow, no_wrap=overflow == "ignore")
        for row in rows:
            table.add_row(Text(sign[row.mark], style[row.mark]), Text(row.name), Text(row.text))
        console.print(table, "", sep="\n")
    return console


def main(argv: Sequence[str]) -> int:
    """``threestudio-asd doctor [CHECKOUT] [--model ID] [--offline]``, or
    ``threestudio-asd doctor [MODEL] --lora FILE``

    Returns 0 if ASD can run somewhere, or the model and the LoRA fit; else 1.
    """
    parser = argparse.ArgumentParser(prog="threestudio-asd doctor", description=__doc__)
    what = "a checkout of threestudio; or a model (a folder, with --lora also a hub id) to look at"
    parser.add_argument("place", nargs="?", metavar="CHECKOUT|MODEL", help=what)
    parser.add_argument("--model", action="append", default=[], help="a folder or hub id to find")
    parser.add_argument("--lora", metavar="FILE", help="a LoRA: what it is, and whether it fits")
    parser.add_argument("--offline", action="store_true", help="do not ask the hub")
    args = parser.parse_args(list(argv))
    if text := requirements.problem("rich", requirements.BUNDLED["rich"]):
        raise UserError(f"{text}. Fix: {requirements.install_command({'rich': text})}")
    if args.lora or (args.place and is_model(args.place)):
        if len(args.model) > 1 or (args.model and args.place):
            raise UserError("Give one model with --lora: doctor MODEL --lora FILE.")
        return _show_fit(args.place or next(iter(args.model), None), args.lora, args.offline)
    report = examine(args.place and Path(args.place), args.model, args.offline)
    show(report)
    return 0 if report.runs else 1
