"""Which libraries are replaced, by what, and in which processes."""

import json
import subprocess
import sys

import pytest

from threestudio_asd.errors import UserError
from threestudio_asd.portable import placeholder

# All of them, so that they share what is made once.
pytestmark = pytest.mark.long

# Imports, and fails when it is used: nerfacc on a machine without CUDA.
UNUSABLE = """
class OccGridEstimator:
    def __init__(self, *args, **kwargs):
        raise RuntimeError("no kernels\\nfor this device")
"""
SCRIPT = """
import importlib, json, multiprocessing, sys
from threestudio_asd import portable

def child(name):
    process = multiprocessing.get_context("spawn").Process(
        target=importlib.import_module, args=(name,)
    )
    process.start()
    process.join()
    return process.exitcode

reasons = portable.unusable("cpu")
names = portable.install("cpu")
for name in ("nerfacc.volrend", "nerfacc.pdf", "nerfacc.data_specs", "nerfacc.estimators.base"):
    importlib.import_module(name)
modules = [importlib.import_module(name) for name in ("tinycudann", "nerfacc", "nvdiffrast.torch")]
from transformers.utils.import_utils import is_torchvision_available
print(json.dumps({
    "reasons": reasons,
    "names": names,
    "again": portable.install("cpu"),
    "files": [module.__file__ for module in modules],
    "grid": modules[1].OccGridEstimator.__module__,
    "rasterizer": modules[2].RasterizeGLContext.__module__,
    "torchvision": is_torchvision_available(),
    "child": child("nerfacc"),
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What a process without CUDA and with an unusable nerfacc says."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "nerfacc").mkdir()
    (folder / "nerfacc" / "__init__.py").write_text(UNUSABLE)
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{SCRIPT}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"log": done.stderr}


def test_compiled_extensions_are_replaced_without_cuda(installed):
    assert {"tinycudann", "nerfacc", "nvdiffrast"} <= set(installed["names"])
    assert all("threestudio_asd/portable/standins" in file for file in installed["files"])
    assert installed["grid"] == "threestudio_asd.kernels.occgrid"
    assert installed["rasterizer"] == "threestudio_asd.portable.nvdiffrast"


def test_reasons_are_told_once(installed):
    assert installed["reasons"]["nerfacc"] == "RuntimeError: no kernels"
    assert set(installed["reasons"]) == set(installed["names"]) == set(installed["again"])
    assert installed["log"].count("stand-in for nerfacc (RuntimeError: no kernels)") == 1


def test_transformers_does_not_take_the_placeholder_for_torchvision(installed):
    assert installed["torchvision"] is ("torchvision" not in installed["names"])


def test_spawned_processes_find_the_stand_ins(installed):
    assert installed["child"] == 0


def test_placeholders_say_what_to_install():
    wandb = placeholder.missing("wandb.sdk")
    with pytest.raises(UserError, match=r"wandb\.sdk\.init is called.*pip install wandb"):
        wandb("init")()
    with pytest.raises(AttributeError):
        wandb("__path__")
