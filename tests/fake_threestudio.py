"""A checkout with threestudio's extension mechanism and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

PACKAGE = {
    "__init__": """
__modules__ = {}
__version__ = "0.2.3"

def register(name):
    def add(cls):
        if name in __modules__:
            raise ValueError(name)
        __modules__[name] = cls
        return cls
    return add

def find(name):
    return __modules__[name]

debug = info = warn = print
from . import systems
""",
    "systems/__init__": "from . import base",
    "systems/base": """
from dataclasses import dataclass
import threestudio

class BaseSystem:
    @dataclass
    class Config:
        pass

@threestudio.register("theirs")
class BaseLift3DSystem(BaseSystem):
    pass
""",
    "models/__init__": "",
    "models/prompt_processors/__init__": "",
    "models/prompt_processors/base": "class PromptProcessorOutput: ...",
    "utils/__init__": "",
    "utils/base": """
class Updateable: ...
class BaseObject(Updateable):
    class Config: ...
class BaseModule(Updateable):
    class Config: ...
""",
    "utils/config": "def parse_structured(fields, cfg): ...",
    "utils/misc": "C = cleanup = get_device = print",
}

# What its launcher does with custom/: import each folder by path, print what goes wrong, go on.
LAUNCHER = """
import importlib.util, os, sys, traceback

def load_custom_modules():
    for name in sorted(os.listdir("custom")):
        try:
            spec = importlib.util.spec_from_file_location(name, f"custom/{name}/__init__.py")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        except Exception as error:
            print(traceback.format_exc())
            print(f"Cannot import custom/{name}:", error)
"""

# Forget that the package is installed in this environment.
UNINSTALLED = """
import sys
class Uninstalled:
    def find_spec(self, name, path=None, target=None):
        if name == "threestudio_asd":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Uninstalled())
"""


def write_checkout(folder: Path, version: str = "0.2.3") -> Path:
    """The fake checkout, in ``folder``."""
    for name, source in PACKAGE.items():
        file = folder / "threestudio" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source.replace("0.2.3", version))
    (folder / "launch.py").write_text(LAUNCHER)
    (folder / "custom").mkdir()
    return folder


def clone(checkout: Path, name: str = "threestudio-asd") -> Path:
    """What ``git clone`` puts into the checkout's ``custom/``; the weights are a link."""
    folder = checkout / "custom" / name
    no_weights = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(ROOT / "threestudio_asd", folder / "threestudio_asd", ignore=no_weights)
    (folder / "threestudio_asd/tiny/weights").symlink_to(ROOT / "threestudio_asd/tiny/weights")
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(ROOT / "__init__.py", folder)
    return folder


def python(checkout: Path, code: str, before: str = "") -> subprocess.CompletedProcess:
    """Run ``code`` in the checkout after its launcher, the fake or the real, loaded ``custom/``."""
    load = "import launch, threestudio\nknown = sorted(threestudio.__modules__)\n"
    load += "launch.load_custom_modules()\n"
    return subprocess.run(
        [sys.executable, "-c", before + "\nimport sys; sys.path.insert(0, '')\n" + load + code],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
