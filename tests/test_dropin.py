"""What threestudio finds registered when it imports us, and prints when it cannot."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import types

import pytest
from fake_threestudio import ROOT, UNINSTALLED, clone, python, write_checkout

from threestudio_asd import dropin, requirements
from threestudio_asd.cli.link import link
from threestudio_asd.dropin import NAMES, DropInError
from threestudio_asd.dropin.checkout import open_checkout

REPORT = """
import json
from omegaconf import OmegaConf
print("REPORT", json.dumps({
    "new": sorted(set(threestudio.__modules__) - set(known)),
    "lost": sorted(set(known) - set(threestudio.__modules__)),
    "files": sorted({
        m.__file__ for n, m in sys.modules.items() if n.startswith("threestudio_asd.")
    } | {sys.modules["threestudio_asd"].__file__}),
    "copies": [n for n, m in list(sys.modules.items()) if str(
        getattr(m, "__dict__", {}).get("__file__")).endswith("threestudio_asd/__init__.py")],
    "path": [p for p in sys.path if "custom" in p],
    "host": sys.modules["threestudio_asd.host"].NAME,
    "model": str(OmegaConf.create({"m": "${asd_model:tiny-shapes}"}).m),
}))
"""


def report(done):
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    return json.loads(line.removeprefix("REPORT "))


def registered_once(seen, root):
    """Exactly our names are new, and every module of the package lies below ``root``."""
    assert (seen["new"], seen["lost"], seen["host"]) == (sorted(NAMES), [], "upstream")
    assert seen["copies"] == ["threestudio_asd"]
    assert [file for file in seen["files"] if not file.startswith(str(root))] == []


@pytest.fixture
def checkout(tmp_path):
    return write_checkout(tmp_path / "threestudio")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("threestudio-asd", UNINSTALLED),
        pytest.param("threestudio_asd", "", marks=pytest.mark.slow),
    ],
    ids=["not installed", "installed too, underscore"],
)
def test_a_clone_registers_our_names_from_one_copy(checkout, name, before):
    folder = clone(checkout, name)
    seen = report(python(checkout, REPORT, before))
    registered_once(seen, folder)
    assert seen["path"] == []
    assert seen["model"].startswith(str(folder / "threestudio_asd/tiny/weights/tiny-shapes"))


@pytest.mark.slow
def test_a_link_registers_the_installed_package_and_a_second_folder_changes_nothing(checkout):
    link(open_checkout(checkout))
    folder = clone(checkout, "zz-a-clone-besides")
    done = python(checkout, REPORT)
    seen = report(done)
    registered_once(seen, ROOT)
    assert f"loaded before; not from {folder}" in done.stdout


def test_a_link_to_a_package_that_is_not_installed_says_so(checkout):
    link(open_checkout(checkout))
    done = python(checkout, "print(sorted(threestudio.__modules__))", UNINSTALLED)
    assert (
        f"not installed (or too old a release) for the Python that runs it, {sys.executable}"
        in (done.stdout)
    )
    assert done.stdout.splitlines()[-1] == "['theirs']"


@pytest.mark.slow
def test_a_broken_library_is_named_before_and_after_the_bare_key_error(checkout):
    clone(checkout)
    done = python(
        checkout, "threestudio.find('asd-system')", "import sys; sys.modules['peft']=None"
    )
    assert done.returncode == 1
    message = "threestudio-asd cannot be used in this threestudio: peft "
    assert message in done.stdout
    assert f'To mend it: {sys.executable} -m pip install "peft>=0.19" .' in done.stdout
    *_, error, empty, last = done.stderr.splitlines()
    assert (error, empty) == ("KeyError: 'asd-system'", "")
    assert last.startswith(message)


def test_other_errors_end_as_they_would_without_us(checkout):
    clone(checkout)
    (checkout / "threestudio/__init__.py").write_text("__version__ = '0.1.0'\n__modules__ = {}\n")
    done = python(checkout, "threestudio.__modules__['another']")
    assert "threestudio 0.1.0 is too old (needed: 0.2.3)" in done.stdout
    assert done.stderr.splitlines()[-1] == "KeyError: 'another'"


def load_root():
    spec = importlib.util.spec_from_file_location("main", ROOT / "__init__.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_outside_threestudio_the_folder_does_nothing():
    before = set(sys.modules), list(sys.path), sys.excepthook
    load_root()
    dropin.activate(ROOT)
    assert (set(sys.modules), list(sys.path), sys.excepthook) == before


@pytest.mark.parametrize("name", ["main", "threestudio-asd"])
def test_pytest_collects_below_it(tmp_path, name):
    folder = tmp_path / name
    (folder / "tests").mkdir(parents=True)
    (folder / "__init__.py").write_text((ROOT / "__init__.py").read_text())
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\ntestpaths = ['tests']\n")
    (folder / "tests/test_it.py").write_text("def test_it():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def upstream(monkeypatch):
    """A threestudio that has been imported; the excepthook is put back afterwards."""
    module = types.SimpleNamespace(__version__="0.2.3", __modules__={}, info=print)
    monkeypatch.setitem(sys.modules, "threestudio", module)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    return module


def refusal():
    with pytest.raises(ImportError) as caught:
        dropin.activate(ROOT)
    assert isinstance(caught.value, DropInError)
    message = str(caught.value)
    assert "\n" not in message
    assert "To mend it: " in message
    return message


@pytest.mark.parametrize("version", ["0.2.2", "0.1.0", ""])
def test_an_old_threestudio_is_refused(upstream, version):
    upstream.__version__ = version
    assert f"threestudio {version} is too old (needed: 0.2.3)" in refusal()


def test_old_and_absent_libraries_are_refused_together(upstream, monkeypatch):
    fake = {"peft": None, "diffusers": "0.19.3", "torch": "2.0.1+cu118", "omegaconf": "2.2.3"}
    monkeypatch.setattr(requirements, "installed", lambda name: fake.get(name, "99"))
    real = requirements.problems
    monkeypatch.setattr(requirements, "problems", lambda needed, try_import: real(needed))
    message = refusal()
    assert "peft is not installed (needed: >=0.19)" in message
    assert "diffusers 0.19.3 is too old (needed: >=0.40,<0.44)" in message
    assert "torch 2.0.1+cu118 is too old" in message
    assert "omegaconf 2.2.3 is too old" in message
    command = '-m pip install "torch>=2.11,<2.14" "diffusers>=0.40,<0.44" "peft>=0.19" "omegaconf'
    assert command in message


def test_an_old_python_is_refused(upstream, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 8, 18, "final", 0))
    assert "Python 3.8.18 is too old (needed: 3.11 or newer)" in refusal()


def test_a_name_of_another_extension_is_refused(upstream, monkeypatch):
    monkeypatch.setattr(requirements, "problems", lambda needed, try_import: {})
    upstream.__modules__["asd-system"] = type("Theirs", (), {"__module__": "custom.other"})
    assert "asd-system is already registered by custom.other" in refusal()


@pytest.mark.parametrize(
    "file",
    [
        "__init__.py",
        "threestudio_asd/__init__.py",
        "threestudio_asd/errors.py",
        "threestudio_asd/requirements.py",
        "threestudio_asd/cli/__init__.py",
        "threestudio_asd/dropin/__init__.py",
        "threestudio_asd/dropin/template/__init__.py",
    ],
)
def test_what_tells_of_an_old_python_runs_on_it(file):
    tree = ast.parse((ROOT / file).read_text(), feature_version=(3, 8))
    future = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
    annotated = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.returns]
    assert future or not [
        n for n in annotated if not isinstance(n.returns, ast.Name | ast.Constant)
    ]


@pytest.mark.parametrize(
    ("version", "than", "expected"),
    [
        ("0.19.3", "0.40", True),
        ("0.40.0", "0.40", False),
        ("2.13.0+cpu", "2.11", False),
        ("2.9", "2.11", True),
        ("5", "5.0", False),
        ("", "0.2.3", True),
    ],
)
def test_versions_compare_as_numbers(version, than, expected):
    assert requirements.older(version, than) is expected


def test_every_library_is_checked_by_its_module():
    assert requirements.problems(requirements.BUNDLED, try_import=True) == {}
    wrong = requirements.problem("no-such-library", ">=1")
    assert wrong == "no-such-library is not installed (needed: >=1)"


REAL = os.environ.get("THREESTUDIO_PATH", "")
needs_threestudio = pytest.mark.skipif(not REAL, reason="THREESTUDIO_PATH is not set")
# The stand-ins import our package, hence from the copy that is to be tested.
STANDINS = "from threestudio_asd.portable import install; install(quiet=True)\n"


@pytest.fixture
def threestudio(tmp_path):
    """A copy of the real one, with an empty ``custom/``."""
    folder = tmp_path / "threestudio"
    left_out = shutil.ignore_patterns(".git", "outputs", "custom", "__pycache__")
    shutil.copytree(REAL, folder, ignore=left_out)
    (folder / "custom").mkdir()
    return folder


@needs_threestudio
def test_the_real_launcher_takes_a_link(threestudio):
    link(open_checkout(threestudio))
    registered_once(report(python(threestudio, REPORT, STANDINS)), ROOT)


@needs_threestudio
def test_the_real_launcher_takes_a_clone(threestudio):
    folder = clone(threestudio)
    first = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    registered_once(report(python(threestudio, REPORT, first + STANDINS)), folder)


@needs_threestudio
@pytest.mark.parametrize("config", ["asd-nerf", "tiny/asd-nerf"])
def test_the_real_launcher_ends_in_our_message_if_a_library_is_broken(threestudio, config):
    link(open_checkout(threestudio))
    config = f"custom/threestudio-asd/configs/{config}.yaml"
    argv = ["launch.py", "--config", config, "--train", "system.prompt_processor.prompt=a mug"]
    code = f"{STANDINS}import runpy, sys; sys.modules['peft'] = None; sys.argv = {argv}\n"
    code += "sys.path.insert(0, ''); runpy.run_path('launch.py', run_name='__main__')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=threestudio, capture_output=True, text=True, timeout=600)
    message = "threestudio-asd cannot be used in this threestudio: peft "
    assert done.returncode == 1
    assert message in done.stdout
    assert "(IMPORT FAILED)" in done.stdout
    error, _, last = done.stderr.splitlines()[-3:]
    assert "Unsupported interpolation type asd_model" in done.stderr or "KeyError" in error
    assert last.startswith(message)
