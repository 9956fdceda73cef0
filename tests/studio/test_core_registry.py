"""Names and classes; extensions."""

import sys

import pytest

from threestudio_asd.errors import AlreadyRegisteredError, NotRegisteredError
from threestudio_asd.studio import registry
from threestudio_asd.studio.run.extensions import load_extensions


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_modules", {})
    monkeypatch.setattr(registry, "_failed_extensions", {})


def test_register_then_find():
    @registry.register("a-thing")
    class Thing:
        pass

    assert registry.find("a-thing") is Thing
    assert registry.names() == ["a-thing"]


def test_a_name_belongs_to_one_class():
    registry.register("a-thing")(int)
    with pytest.raises(AlreadyRegisteredError, match=r"a-thing.*builtins\.int.*builtins\.str"):
        registry.register("a-thing")(str)
    with pytest.raises(ValueError):  # what threestudio raises
        registry.register("a-thing")(str)


def test_unknown_name_lists_the_nearest():
    registry.register("implicit-volume")(int)
    with pytest.raises(NotRegisteredError, match=r"Nearest: implicit-volume.*custom/"):
        registry.find("implicit-volumes")
    with pytest.raises(KeyError):  # what threestudio raises
        registry.find("other")


def test_class_with_bases():
    main = registry.register("main")(type("Main", (), {"who": lambda self: "main"}))
    left = registry.register("left")(type("Left", (), {"who": lambda self: "left"}))
    right = registry.register("right")(type("Right", (), {}))
    made = registry.find("main:left,right")
    assert made.__bases__ == (left, right, main)
    assert made().who() == "left"


@pytest.fixture
def custom(tmp_path):
    """Two good extensions, a disabled one and one that fails."""
    (tmp_path / "ext-folder").mkdir()
    (tmp_path / "ext-folder" / "__init__.py").write_text("from . import part")
    (tmp_path / "ext-folder" / "part.py").write_text(
        "from threestudio_asd.studio.registry import register\nregister('from-folder')(int)\n"
    )
    (tmp_path / "ext_file.py").write_text(
        "from threestudio_asd.studio.registry import register\nregister('from-file')(str)\n"
    )
    (tmp_path / "ext_off_disabled.py").write_text("raise RuntimeError('must not run')")
    (tmp_path / "ext_bad.py").write_text("import a_module_that_is_not_there")
    (tmp_path / "readme.txt").write_text("not code")
    yield tmp_path
    for name in ("ext-folder", "ext-folder.part", "ext_file"):
        sys.modules.pop(name, None)


def test_extensions_load_and_a_failed_one_is_named_later(custom):
    load_extensions(custom)
    assert registry.names() == ["from-file", "from-folder"]
    assert "ext_bad" not in sys.modules
    with pytest.raises(NotRegisteredError, match=r"ext_bad.*a_module_that_is_not_there"):
        registry.find("from-the-bad-one")


def test_no_extensions_folder(tmp_path):
    load_extensions(tmp_path / "custom")
    assert registry.names() == []
