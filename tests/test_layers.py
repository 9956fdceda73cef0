"""Imports point down only. One test breaks the rule on purpose: the guard must see it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "threestudio_asd"

# Layer -> the layers that it may import besides itself.
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "stop": set(),
    # Where caches lie; for whatever borders on a library that keeps one.
    "homes": {"errors"},
    # What must be installed; setup.py reads it too.
    "requirements": set(),
    # Files that hold objects, read without them.
    "pickles": set(),
    # Finding and reading pretrained models; for studio and for teachers.
    "model_files": set(),
    "model_kinds": {"errors"},
    "pretrained": {"errors", "homes", "model_files", "model_kinds"},
    "text_encoder": {"errors", "model_files", "pretrained"},
    # Pieces of a batch in threads.
    "parallel": {"errors"},
    "kernels": {"errors", "homes"},
    "portable": {"errors", "kernels"},
    "studio": {
        *("errors", "homes", "files", "stop", "kernels", "parallel", "pickles", "pretrained"),
        "text_encoder",
    },
    "distill": {"errors"},
    "teachers": {
        *("errors", "homes", "distill", "parallel", "model_files", "model_kinds", "pickles"),
        *("pretrained", "text_encoder"),
    },
    "critics": {"errors", "distill", "teachers"},
    "tiny": {"errors", "files", "stop", "distill", "teachers", "pretrained", "text_encoder"},
    "host": {"errors", "studio"},
    # What threestudio imports from custom/.
    "dropin": {"errors", "homes", "requirements", "host", "guidance", "systems"},
    "guidance": {
        *("errors", "homes", "host", "distill", "pretrained", "teachers", "critics", "tiny"),
    },
    "systems": {"errors", "host", "distill", "teachers", "critics", "guidance"},
    "compare": {
        *("errors", "files", "homes", "stop", "parallel", "pretrained", "host", "distill"),
        *("kernels", "teachers"),
        *("critics", "tiny", "guidance", "systems"),
        # It runs on the bundled host only, many trainings in one process.
        "studio",
    },
    "cli": {
        *("errors", "files", "homes", "stop", "parallel", "pickles", "requirements"),
        *("pretrained", "kernels", "tiny"),
        *("teachers", "portable", "studio", "host", "dropin", "compare"),
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
    return bad


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


def test_rules_have_no_circle():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {layer for layer, below in ALLOWED.items() if below <= done} - done
        assert ready, f"circle among {set(ALLOWED) - done}"
        done |= ready


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("threestudio_asd.studio.x", "from threestudio_asd.distill import schedule"),
        ("threestudio_asd.studio.x", "def f():\n    import threestudio_asd.guidance.asd"),
        ("threestudio_asd.studio.models.x", "from ...systems import asd"),
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
