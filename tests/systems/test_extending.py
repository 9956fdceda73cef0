"""The code in docs/extending.md, as a user would run it."""

import re
from pathlib import Path

import pytest

from threestudio_asd.distill import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
#: custom/<name>.py -> its text
FILES = dict(re.findall(r"```python\n# custom/(\w+)\.py\n(.*?)```", PAGE.read_text(), re.S))
SMALL = ("system.n_particles=2", "data.batch_size=2", "system.shape=null")

#: file -> the method that it registers
NAMES = {"classifier": "classifier", "robust": "robust-asd"}


@pytest.mark.parametrize("file", NAMES)
def test_a_method_of_a_users_own_file_has_a_name(launch, logged, tmp_path, forget_methods, file):
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom" / f"{file}.py").write_text(FILES[file])
    assert NAMES[file] not in METHODS
    assert launch(*SMALL, f"system.guidance.method={NAMES[file]}", "trainer.max_steps=1") == 0
    log = logged()
    assert log["train/grad_norm"][0] > 0
    assert ("train/critic_repel" in log) == (file == "robust")


def test_every_block_of_the_page_is_run_and_about_ten_lines_long():
    assert set(FILES) == set(NAMES)
    assert PAGE.read_text().count("```python") == len(FILES)
    assert all(len([line for line in text.splitlines() if line]) <= 10 for text in FILES.values())
