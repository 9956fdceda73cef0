"""Prompts, and all other keys whose type is text, are what was typed."""

import shlex

import pytest
from omegaconf import OmegaConf
from prompts import PROMPTS

import threestudio_asd.guidance
import threestudio_asd.studio.models
import threestudio_asd.systems  # noqa: F401  (registers the classes that say which keys are texts)
from threestudio_asd.cli import demo
from threestudio_asd.cli import main as cli
from threestudio_asd.errors import UserError
from threestudio_asd.studio.config.experiment import load_config, read_config
from threestudio_asd.studio.run import execute
from threestudio_asd.studio.run.snapshots import save_configs

CONFIG = """
name: texts
tag: ${rmspace:${system.prompt_processor.prompt},_}
system_type: asd-system
system:
  prompt_processor_type: stable-diffusion-prompt-processor
  prompt_processor:
    prompt: ???
  guidance_type: stable-diffusion-asd-guidance
  guidance: {gamma: -0.5}
  loss: {}
"""
PROMPT = "system.prompt_processor.prompt"
TEXTS = [
    *(PROMPT, "system.prompt_processor.negative_prompt", "system.prompt_processor.prompt_front"),
    *("name", "tag", "description", "exp_root_dir", "resume"),
    *("system.guidance.LoRA_path", "system.guidance.weighting_strategy", "system.weights"),
    "system.exporter.save_name",
]


def load(*arguments, text=CONFIG):
    return load_config(text, from_string=True, cli_args=[f"{PROMPT}=a mug", *arguments])


def is_null(key, text):
    """Keys that may be null are, where YAML says so."""
    optional = ("prompt_front", "LoRA_path", "weighting_strategy", "system.weights", "resume")
    return key.endswith(optional) and text.lower() in ("null", "~")


@pytest.mark.parametrize("text", PROMPTS)
def test_texts_are_what_was_typed(text, tmp_path):
    source = tmp_path / "source.yaml"
    source.write_text(CONFIG)
    cfg = load_config(source, cli_args=[f"{PROMPT}=a mug", *(f"{key}={text}" for key in TEXTS)])
    save_configs(tmp_path / "configs", source, cfg)
    again = load_config(tmp_path / "configs/parsed.yaml")
    for key in TEXTS:
        expected = None if is_null(key, text) else text
        assert OmegaConf.select(cfg, key) == OmegaConf.select(again, key) == expected, key


class Seen(Exception):
    """What a run would have execute."""


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """Runs a command up to the first training; returns the prompt that reaches it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "parse_prompt", lambda prompt: ("mug", "red"))  # not of its world

    def told(args, source, cfg, *others):
        raise Seen(cfg)

    monkeypatch.setattr(execute, "run", told)

    def command(*arguments):
        with pytest.raises(Seen) as caught:
            assert cli.main(list(arguments)) == "a training"
        return caught.value.args[0].system.prompt_processor.prompt

    return command


@pytest.mark.parametrize(
    "text", ["", "null", "a red mug #1", "a robot: blue", "[mug", "12:30", "-mug"]
)
def test_commands_take_the_prompt_as_it_is(seen, text):
    assert seen("launch", "--config", "tiny/asd-2d", "--train", f"{PROMPT}={text}") == text
    assert seen("stages", "--tiny", "--out", "run", f"--prompt={text}") == text
    assert seen("demo", f"--prompt={text}") == text


def test_a_prompt_in_an_argument_of_its_own(seen):
    for text in ("- a mug", '"Hello" said a mug'):
        assert seen("demo", "--prompt", text) == text


def test_references_stay_a_feature(tmp_path):
    cfg = load("seed=3", f"{PROMPT}=${{seed}} red mugs: ${{name}}")
    assert cfg.system.prompt_processor.prompt == "3 red mugs: texts"
    assert cfg.tag == "3_red_mugs:_texts"
    with pytest.raises(UserError, match=r"'nobody' not found \(write \\\$\{ where the characters"):
        load(f"{PROMPT}=a ${{nobody}}")
    with pytest.raises(UserError) as caught:
        load(f"{PROMPT}=a ${{mug")
    assert f"{PROMPT}=a ${{mug cannot be read" in str(caught.value)
    assert f"'{PROMPT}=a \\${{mug'" in str(caught.value)
    cfg = load(f"{PROMPT}=a \\${{mug, a \\${{name}}")  # as the message has it
    assert cfg.system.prompt_processor.prompt == "a ${mug, a ${name}"
    source = tmp_path / "source.yaml"
    source.write_text(CONFIG)
    save_configs(tmp_path, source, cfg)
    again = load_config(tmp_path / "parsed.yaml")
    assert again.system.prompt_processor.prompt == "a ${mug, a ${name}"
    assert again.trial_name == cfg.trial_name == f"a_${{mug,_a_${{name}}{cfg.timestamp}"


def test_nothing_between_quotes_is_an_empty_text():
    assert load("name=''").name == load('name=""').name == load("name=").name == ""
    assert (
        load("system.prompt_processor.prompt_front=''").system.prompt_processor.prompt_front == ""
    )


def test_quotes_around_the_whole_are_told(caplog):
    load("tag='x'")
    load("tag=it's 'x'")
    assert [r.getMessage() for r in caplog.records] == [
        "tag is taken with its quotes: 'x' (they are not needed)"
    ]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("system.guidance.gamma", "-1e-1", -0.1),
        ("seed", "0x10", 16),
        ("system.loss", "{lambda_asd: 1}", {"lambda_asd": 1}),
        ("system.loss.lambda_asd", "[0, 1.0, 2.0, 100]", [0, 1.0, 2.0, 100]),
        ("use_timestamp", "no", False),
        ("trainer.max_steps", "5 # steps", 5),
        ("system.weights_ignore_modules", "[guidance]", ["guidance"]),
        ("system.optimizer", "{name: Adam}", {"name": "Adam"}),
    ],
)
def test_keys_of_other_types_are_yaml(key, text, value):
    assert OmegaConf.select(load(f"{key}={text}", "tag=x"), key) == value


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("system.loss.lambda_asd=[1", """'system.loss.lambda_asd="[1"'"""),
        ("trainer.precision=a: b: c", """'trainer.precision="a: b: c"'"""),
        ('checkpoint.filename="x" y', """'checkpoint.filename="\\"x\\" y"'"""),
        ("system.guidance.grad_clip=[a\n- b", """'system.guidance.grad_clip="[a\\n- b"'"""),
    ],
)
def test_where_yaml_wins_the_error_shows_how_to_quote(argument, shown):
    with pytest.raises(UserError) as caught:
        load(argument)
    message = str(caught.value)
    assert "\n" not in message and "is not valid YAML" in message
    assert message.endswith(f"quote it: {shown}")
    # ... and the advice can be followed, by a shell and by YAML.
    (quoted,) = shlex.split(shown)
    key, _, value = argument.partition("=")
    raw = read_config(CONFIG, from_string=True, cli_args=[f"{PROMPT}=x", quoted])
    assert OmegaConf.select(raw, key) == value


def test_what_is_no_text_is_refused():
    with pytest.raises(UserError, match=r"prompt=\?\?\? leaves the value open"):
        load(f"{PROMPT}=???")
    with pytest.raises(UserError, match="not valid UTF-8"):
        load(f"{PROMPT}=a \udcff mug")
    with pytest.raises(UserError, match=r"leaves system\.prompt_processor\.prompt open"):
        load_config(CONFIG, from_string=True)


def test_a_class_that_is_not_registered_yet_decides_later():
    text = CONFIG.replace("asd-system", "of-an-extension")
    raw = read_config(text, from_string=True, cli_args=[f"{PROMPT}=[mug"])
    assert raw.system.prompt_processor.prompt == "[mug"


@pytest.mark.parametrize("written", ["yes", "12:30", "1e3", "0x10", "1_000", "2024-01-01", "007"])
def test_files_and_mappings_hold_texts_as_well(written):
    text = CONFIG.replace("???", written) + f"description: {written}\n"
    cfg = load_config(text, from_string=True)
    assert cfg.description == cfg.system.prompt_processor.prompt == written
    cfg = load(f"system.prompt_processor={{prompt: {written}, use_cache: no}}")
    assert cfg.system.prompt_processor == {"prompt": written, "use_cache": False}
