"""Imports point down only. One test breaks the rule on purpose: the guard must see it."""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "threestudio_asd"

# Layer -> the layers that it may import besides itself.
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    # Messages to the person at the terminal.
    "log": set(),
    "stop": set(),
    # Folders of pictures with captions.
    "pictures": {"errors", "homes", "log"},
    # Where caches lie; for whatever borders on a library that keeps one.
    "homes": {"errors"},
    # What must be installed; setup.py reads it too.
    "requirements": set(),
    # Finding and reading models and weights that others trained; for studio and for teachers.
    "pretrained": {"errors", "files", "homes"},
    # How many cores there are, without torch; pieces of a batch in threads.
    "cores": set(),
    "parallel": {"errors", "cores"},
    # Named tables that a user's own file can extend.
    "registry": {"errors"},
    "kernels": {"errors", "homes"},
    "portable": {"errors", "kernels"},
    # Meshes, cameras, pictures: no config, no host.
    "scene": {"errors", "files", "homes", "log", "stop", "kernels"},
    "studio": {
        *("errors", "files", "homes", "log", "stop", "parallel", "pretrained"),
        *("kernels", "scene"),
    },
    "distill": {"errors", "registry"},
    "teachers": {"errors", "files", "homes", "parallel", "pretrained", "registry", "distill"},
    "critics": {"errors", "registry", "parallel", "distill", "teachers"},
    # Noise that outlives a step: the state beside distill's arithmetic, on the kernels.
    "fields": {"errors", "registry", "kernels", "distill"},
    "tiny": {"errors", "files", "parallel", "stop", "pretrained", "scene", "distill", "teachers"},
    "host": {"errors", "log", "studio"},
    # What threestudio imports from custom/.
    "dropin": {"errors", "homes", "requirements", "host", "guidance", "systems"},
    "guidance": {
        *("errors", "homes", "pictures", "registry", "host"),
        *("distill", "fields", "teachers", "critics", "tiny"),
    },
    "systems": {"errors", "host", "distill", "teachers", "critics", "guidance"},
    "compare": {
        *("cores", "errors", "files", "homes", "log", "stop", "parallel", "pretrained", "registry"),
        "host",
        *("kernels", "scene", "distill", "teachers", "critics", "tiny", "guidance", "systems"),
        # It runs on the bundled host only, many trainings in one process.
        "studio",
    },
    "generators": {
        *("errors", "files", "homes", "log", "stop", "parallel", "pretrained", "registry"),
        *("pictures", "scene", "studio", "distill", "teachers", "critics", "tiny", "compare"),
    },
    "cli": {
        *(
            "cores",
            "errors",
            "files",
            "homes",
            "log",
            "stop",
            "parallel",
            "requirements",
            "pretrained",
        ),
        *("kernels", "scene", "tiny", "teachers", "portable", "studio", "host", "dropin"),
        *("compare", "generators"),
    },
}
# The same among the rooms of the two largest layers.
ROOMS = {
    "studio": {
        "elsewhere": set(),
        "registry": {"elsewhere"},
        "device": set(),
        "config": {"elsewhere", "registry"},
        "checkpoint": {"registry", "device", "config"},
        "base": {"device", "config", "checkpoint"},
        "data": {"registry", "config"},
        "models": {"registry", "device", "base"},
        "systems": {"registry", "device", "config", "checkpoint", "base", "models"},
        "run": {"registry", "device", "config", "checkpoint", "systems"},
    },
    "compare": {
        "rows": {"measure"},
        "grid": {"measure", "rows"},
        "archive": set(),
        "records": {"archive", "grid"},
        "measure": set(),
        "run": {"grid", "records", "measure"},
        "report": {"archive", "grid", "records", "measure"},
    },
}
# Names below threestudio_asd that are no layers.
NEUTRAL = {"__version__", "configs"}


def imported_modules(source: str, module: str, is_package: bool) -> set[str]:
    """Absolute names of what ``source`` imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                anchor = parts[: len(parts) - node.level + is_package]
                base = ".".join([*anchor, *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What ``module`` (``threestudio_asd.<layer>...``) imports against the rules."""
    layer = module.split(".")[1] if "." in module else ""
    bad = []
    for name in sorted(imported_modules(source, module, is_package)):
        parts = name.split(".")
        if parts[0] == "threestudio" and layer != "host":
            bad.append(f"{module} imports {name}: only host may")
        if parts[0] != "threestudio_asd" or len(parts) < 2 or parts[1] in NEUTRAL:
            continue
        if parts[1] != layer and parts[1] not in ALLOWED.get(layer, set()):
            bad.append(f"{module} imports {name}: {layer or 'the package'} is not above {parts[1]}")
        elif parts[1] == layer and (below := _room_violation(layer, module, parts)):
            bad.append(f"{module} imports {name}: {below}")
    return bad


def _room_violation(layer: str, module: str, imported: list[str]) -> str:
    rooms, room = ROOMS.get(layer), (module.split(".")[2:] or [""])[0]
    if not rooms or len(imported) < 3 or imported[2] == room:
        return ""
    return "" if imported[2] in rooms.get(room, set()) else f"{room} is not above {imported[2]}"


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield path, ".".join(parts[:-1] if is_package else parts), is_package


def test_every_module_keeps_to_its_layer():
    found = []
    for path, module, is_package in modules():
        assert module == "threestudio_asd" or module.split(".")[1] in ALLOWED, (
            f"new layer: {module}"
        )
        found += violations(path.read_text(), module, is_package)
    assert found == []


@pytest.mark.parametrize("rules", [ALLOWED, *ROOMS.values()], ids=["layers", *ROOMS])
def test_rules_have_no_circle(rules):
    done: set[str] = set()
    while len(done) < len(rules):
        ready = {layer for layer, below in rules.items() if below <= done} - done
        assert ready, f"circle among {set(rules) - done}"
        done |= ready


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next and the last the first; [] if there are none."""
    try:
        tuple(TopologicalSorter(imports).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_modules_import_in_no_circle():
    sources = {module: (path.read_text(), package) for path, module, package in modules()}
    imports = {
        module: {
            next((n for n in (name, name.rpartition(".")[0]) if n in sources), module)
            for name in imported_modules(source, module, is_package)
        }
        - {module}
        for module, (source, is_package) in sources.items()
    }
    assert circle(imports) == []
    imports["threestudio_asd.errors"] = {"threestudio_asd.cli.main"}
    assert circle(imports) != []


def test_files_and_folders_are_small():
    files = [*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]
    long = {str(p) for p in files if len(p.read_text().splitlines()) > 300}
    assert long == set()
    # Kernels and their operations; commands; the columns of the method table.
    siblings = {"kernels", "cli", "distill"}
    folders = Counter(p.parent for p, *_ in modules() if p.stem != "__init__")
    assert {str(f) for f, n in folders.items() if n > 12 and f.name not in siblings} == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("threestudio_asd.studio.x", "from threestudio_asd.distill import schedule"),
        ("threestudio_asd.studio.x", "def f():\n    import threestudio_asd.guidance.asd"),
        ("threestudio_asd.studio.models.x", "from ...systems import asd"),
        ("threestudio_asd.studio.config.x", "from threestudio_asd.studio.run import launch"),
        ("threestudio_asd.compare.measure.x", "from threestudio_asd.compare import grid"),
        ("threestudio_asd.distill.x", "from threestudio_asd import host"),
        ("threestudio_asd.critics.x", "from ..studio.base import BaseModule"),
        ("threestudio_asd.guidance.x", "from threestudio_asd.studio.base import BaseModule"),
        ("threestudio_asd.guidance.x", "import threestudio"),
        ("threestudio_asd.kernels.x", "from threestudio.utils import misc"),
        ("threestudio_asd", "from threestudio_asd.errors import UserError"),
    ],
)
def test_the_guard_guards(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("threestudio_asd.guidance.x", "from threestudio_asd import host\nfrom .step import Draw"),
        ("threestudio_asd.host", "from threestudio.utils.misc import C"),
        ("threestudio_asd.studio.models.x", "from ..base import BaseModule\nimport torch"),
    ],
)
def test_the_guard_lets_pass(module, source):
    assert violations(source, module) == []


def test_relative_imports_of_a_package():
    assert imported_modules("from . import asd", "threestudio_asd.guidance", True) == {
        "threestudio_asd.guidance.asd"
    }
