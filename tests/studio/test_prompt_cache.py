"""Embeddings of prompts that are kept for the next run."""

import logging
import shutil

import pytest
import torch
from prompt_processors import make

from threestudio_asd.pretrained.text_encoder import TextEncoder
from threestudio_asd.tiny.random_sd import write_random_sd

pytestmark = pytest.mark.usefixtures("workspace")


def count_encodings(monkeypatch):
    calls, encode = [], TextEncoder.__call__

    def counting(self, prompts):
        calls.append(list(prompts))
        return encode(self, prompts)

    monkeypatch.setattr(TextEncoder, "__call__", counting)
    return calls


def test_a_second_run_reads_the_cache(random_sd, monkeypatch, workspace):
    calls = count_encodings(monkeypatch)
    first, second = make(random_sd)(), make(random_sd)()
    assert len(calls) == 1 and len(calls[0]) == len(set(calls[0])) == 6
    assert torch.equal(first.text_embeddings_vd, second.text_embeddings_vd)
    assert len(list((workspace / ".threestudio_cache/text_embeddings").glob("*.pt"))) == 6
    make(random_sd, prompt="a blue cube")
    assert len(calls) == 2 and "" not in calls[1]
    make(random_sd, use_cache=False)
    assert len(calls) == 3


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_the_cache_knows_content_not_paths(random_sd, tmp_path, monkeypatch, part):
    model, other = tmp_path / "model", write_random_sd(tmp_path / "other", seed=1)
    shutil.copytree(random_sd, model)
    old = make(model)()
    if part == "text_encoder":
        shutil.copytree(other / part, model / part, dirs_exist_ok=True)
    else:
        merges = (model / "tokenizer/merges.txt").read_text().splitlines()
        (model / "tokenizer/merges.txt").write_text("\n".join(merges[:20]))
    new = make(model)()
    assert not torch.allclose(old.text_embeddings, new.text_embeddings)
    torch.testing.assert_close(new.text_embeddings, TextEncoder(model)(["a red mug"]))
    calls = count_encodings(monkeypatch)
    shutil.copytree(model, tmp_path / "moved")
    assert torch.equal(make(tmp_path / "moved")().text_embeddings, new.text_embeddings)
    assert not calls  # the same content elsewhere


def test_a_broken_cache_file_is_computed_again(random_sd, workspace, caplog):
    expected = make(random_sd)().text_embeddings
    for file in (workspace / ".threestudio_cache/text_embeddings").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with caplog.at_level(logging.WARNING, "threestudio_asd"):
        torch.testing.assert_close(make(random_sd)().text_embeddings, expected)
    assert "unreadable" in caplog.text
