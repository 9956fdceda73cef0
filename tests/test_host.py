"""The seam between the plugin and its host."""

import subprocess
import sys

import pytest

from threestudio_asd import host


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bundled_host_offers_the_extension_api():
    assert host.NAME == "bundled"
    assert [name for name in host.__all__ if not hasattr(host, name)] == []
    assert issubclass(host.BaseLift3DSystem, host.BaseSystem)


def test_upstream_after_the_bundled_host_is_refused():
    with pytest.raises(ImportError, match="already runs on its bundled host"):
        import threestudio  # noqa: F401


FAKE_UPSTREAM = """
import sys, types
def module(name, **names):
    made = types.ModuleType(name)
    made.__dict__.update(names)
    made.__path__ = []
    sys.modules[name] = made
api = dict.fromkeys(["debug", "find", "info", "register", "warn"], print)
module("threestudio", __modules__={}, __version__="0.2.3", **api)
for package in ("models", "models.prompt_processors", "systems", "utils"):
    module("threestudio." + package)
module("threestudio.models.prompt_processors.base", PromptProcessorOutput=object)
module("threestudio.systems.base", BaseLift3DSystem=object, BaseSystem=object)
module("threestudio.utils.base", BaseModule=object, BaseObject=object, Updateable=object)
module("threestudio.utils.config", parse_structured=print)
module("threestudio.utils.misc", C=print, cleanup=print, get_device=print)
from threestudio_asd import host
"""


def test_upstream_is_chosen_when_it_runs_already():
    code = FAKE_UPSTREAM + (
        "print(host.NAME, host.register is print, 'threestudio_asd.studio' in sys.modules)\n"
        "try:\n    import threestudio_asd.studio.base\n"
        "except ImportError as error:\n    print(error)\n"
    )
    first, second = python(code).splitlines()
    assert first == "upstream True False"
    assert "cannot be imported beside a running threestudio" in second


def test_package_import_has_no_side_effects():
    code = (
        "import sys; before = set(sys.modules); import threestudio_asd;"
        "print(sorted(n for n in set(sys.modules) - before if 'threestudio' not in n))"
    )
    assert python(code).strip() == "[]"
