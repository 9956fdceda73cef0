"""Typed configs, resolvers, and the messages for what is wrong with them."""

import typing
from dataclasses import dataclass, field
from typing import Any

import pytest
from omegaconf import OmegaConf

from threestudio_asd.errors import ConfigKeyError, UserError
from threestudio_asd.studio.config.experiment import load_config
from threestudio_asd.studio.config.files import find_config, packaged_configs
from threestudio_asd.studio.config.structured import parse_structured, register_resolver


@dataclass
class Config:
    radius: float = 1.0
    optional: float | None = None
    steps: int = 10
    pair: tuple[float, float] = (0, 1)
    old_pair: typing.Tuple[float, float] = (0, 1)  # noqa: UP006  (threestudio's spelling)
    anything: Any = None
    section: dict = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


def parse(**values):
    experiment = OmegaConf.create({"system": {"geometry": values}})
    return parse_structured(Config, experiment.system.geometry)


def test_values_and_defaults():
    cfg = parse(radius=2, pair=[1, 2], section={"a": {"b": 1}}, names=["x"])
    assert cfg.radius == 2.0
    assert list(cfg.pair) == [1.0, 2.0]
    assert cfg.section.a.b == 1
    assert cfg.steps == 10
    assert parse_structured(Config).radius == 1.0
    assert parse_structured(Config, {"radius": 3}).radius == 3.0


@pytest.mark.parametrize("key", ["radius", "optional", "steps", "anything"])
@pytest.mark.parametrize("schedule", [[0, 1.0, 2.0, 100], [1.0, 2.0, 100], [0, 1, 2, 3, 4, 5]])
def test_schedules_pass_where_numbers_are_expected(key, schedule):
    assert list(parse(**{key: schedule})[key]) == schedule
    assert list(parse_structured(Config, {key: schedule})[key]) == schedule


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("radius", "abc", "float"),
        ("radius", True, "float"),
        ("radius", None, "float"),
        ("radius", ["a", 1, 2], "float"),
        ("radius", {"a": 1}, "float"),
        ("steps", 1.5, "int"),
        ("optional", "x", "float or null"),
        ("pair", [1, 2, 3], "tuple[float, float]"),
        ("old_pair", 5, "Tuple[float, float]"),
        ("section", 3, "dict"),
        ("names", 3, "list[str]"),
    ],
)
def test_wrong_type_names_key_value_and_type(key, value, expected):
    with pytest.raises(ConfigKeyError) as caught:
        parse(**{key: value})
    message = str(caught.value)
    assert f"system.geometry.{key} = {value!r}" in message
    assert message.endswith(f"Config expects {expected}.")


def test_unknown_key_names_path_class_and_nearest():
    with pytest.raises(ConfigKeyError, match=r"system\.geometry\.radus: did you mean radius\?"):
        parse(radus=1)
    with pytest.raises(ConfigKeyError, match=r"Config has the keys radius, optional"):
        parse(zzz=1)
    with pytest.raises(TypeError):  # what threestudio raises
        parse(zzz=1)


def test_resolvers():
    text = """
    description: ${rmspace:"a red mug",_}
    trainer:
      a: ${add:1,2}
      b: ${sub:5,2}
      c: ${mul:3,4}
      d: ${div:3,4}
      e: ${idiv:7,2}
      f: ${basename:x/y.ckpt}
      g: ${tuple2:1.5}
      h: ${gt0:1}
      i: ${not:true}
      j: ${calc_exp_lr_decay_rate:0.01,2}
      k: ${cmaxgt0:${system.lambda}}
      l: ${cmaxgt0orcmaxgt0:0,${system.lambda}}
    system:
      lambda: [0, 0.0, 1.0, 100]
    """
    cfg = load_config(text, from_string=True)
    assert cfg.description == "a_red_mug"
    assert OmegaConf.to_container(cfg.trainer) == {
        "a": 3, "b": 3, "c": 12, "d": 0.75, "e": 3, "f": "y.ckpt", "g": [1.5, 1.5],
        "h": True, "i": False, "j": pytest.approx(0.1), "k": True, "l": True,
    }  # fmt: skip


def test_resolvers_register_once():
    register_resolver("add", lambda a, b: 0)
    assert load_config("seed: ${add:1,2}", from_string=True).seed == 3


def test_a_resolvers_own_message():
    def refuse(name):
        raise UserError(f"no model {name}, take another")

    register_resolver("refuse_for_test", refuse)
    with pytest.raises(UserError, match=r"^config key data\.x: no model a, take another$"):
        load_config("data: {x: '${refuse_for_test:a}'}", from_string=True)
    OmegaConf.clear_resolver("refuse_for_test")


def test_trial_folder_and_overrides(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("name: n\ntag: t\nseed: 1\n")
    second.write_text("seed: 2\n")
    cfg = load_config(first, second, cli_args=["exp_root_dir=here"], timestamp="@now")
    assert (cfg.seed, cfg.trial_dir) == (2, "here/n/t@now")
    assert load_config(first, cli_args=["use_timestamp=false"]).trial_dir == "outputs/n/t"
    assert "@2" in load_config(first).trial_dir
    assert load_config(first, cli_args=["name=3", "timestamp=''"]).exp_dir == "outputs/3"


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("system: {prompt: '???'}", [], 'leaves system.prompt open: pass system.prompt="..."'),
        ("tag: ${system.x}", [], "tag: Interpolation key 'system.x' not found"),
        ("tag: ${nothing:1}", [], "Unsupported interpolation type nothing"),
        ("tag: ${div:1,0}", [], "division by zero"),
        ("nam: x", [], "nam: did you mean name?"),
        ("seed: abc", [], "seed = 'abc' has the wrong type: ExperimentConfig expects int"),
        ("seed: -1", [], "must not be negative"),
        ("use_timestamp: false", [], "needs a folder name"),
        ("seed: 1", ["--gpus", "1"], '"--gpus" is neither an option nor key=value'),
        ("seed: 1", ["a"], '"a" is neither an option'),
        ("seed: 1", ["system=[1"], "cannot be read"),
        ("a: [1", [], "the config is not valid YAML"),
        ("data: 3", [], "data = 3 has the wrong type: ExperimentConfig expects dict"),
    ],
)
def test_bad_configs(text, arguments, message):
    with pytest.raises(UserError) as caught:
        load_config(text, from_string=True, cli_args=arguments)
    assert message in str(caught.value)


def test_bad_files(tmp_path):
    bad = tmp_path / "bad.yaml"
    for content in (b"a: [1", b"- 1\n- 2\n", b"\xff\xfe\x00"):
        bad.write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.yaml"):
            load_config(bad)
    with pytest.raises(UserError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_config_names(tmp_path, monkeypatch):
    local = tmp_path / "mine.yaml"
    local.write_text("name: n\n")
    monkeypatch.chdir(tmp_path)
    assert find_config("mine.yaml").resolve() == local
    assert find_config("mine").resolve() == local
    with pytest.raises(UserError, match="no config yours"):
        find_config("yours")
    for file in packaged_configs().rglob("*.yaml"):
        short = str(file.relative_to(packaged_configs()).with_suffix(""))
        assert find_config(short) == find_config(f"configs/{short}.yaml") == file
