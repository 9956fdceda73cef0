"""A folder with LoRA files: which one is taken, with which settings, and what is left out."""

import json
import shutil

import pytest
from lora_draws import Draw, draw_file, drawn_lora, lora
from lora_kinds import APPLIED, peft_config, without_alpha
from lora_unets import differing, restored
from safetensors.torch import save_file

from threestudio_asd.errors import UserError
from threestudio_asd.teachers.lora.fuse import fuse_lora


def test_a_folder_gives_its_only_file(small_unets, tmp_path):
    unet, _ = restored(small_unets[0])
    drawn = drawn_lora(Draw(unet, 0))
    save_file(
        {k: v.contiguous() for k, v in drawn.state.items()}, tmp_path / "red mug v2.safetensors"
    )
    (tmp_path / "README.md").write_text("a LoRA")
    fuse_lora(unet, tmp_path)
    assert differing(unet, drawn.expected, rtol=1e-5, atol=1e-5) == []
    shutil.copy(tmp_path / "red mug v2.safetensors", tmp_path / "red mug v1.safetensors")
    with pytest.raises(
        UserError, match=r"red mug v1.safetensors, red mug v2.safetensors.*LoRA_path"
    ):
        fuse_lora(unet, tmp_path)
    with pytest.raises(UserError, match="holds no LoRA file"):
        (tmp_path / "empty").mkdir()
        fuse_lora(unet, tmp_path / "empty")


def test_a_folder_of_networks_or_adapters(small_unets, tmp_path, caplog):
    """PEFT's scripts write unet/ and text_encoder/, PEFT itself a folder by the adapter's name."""
    for folder, texts in (("unet", True), ("my_adapter", False)):
        unet, _ = restored(small_unets[0])
        drawn = APPLIED["PEFT, patterns"](draw := Draw(unet, 0))
        drawn.save(tmp_path / folder, draw.rng)
        if texts:
            draw_file(draw, lora, ("PEFT",)).save(tmp_path / "text_encoder", draw.rng)
        fuse_lora(unet, tmp_path)
        assert differing(unet, drawn.expected, rtol=1e-5, atol=1e-5) == []
        assert ("left out: the folder" in caplog.text) == texts
        caplog.clear()
        shutil.rmtree(tmp_path / folder)
        shutil.rmtree(tmp_path / "text_encoder", ignore_errors=True)


def test_settings_of_a_neighbour_are_not_taken(small_unets, tmp_path):
    """A download folder: PEFT's adapter with its settings, and kohya's file that states its own."""
    unet, _ = restored(small_unets[0])
    drawn = drawn_lora(Draw(unet, 0))
    (tmp_path / "adapter_config.json").write_text(json.dumps(peft_config(lora_alpha=77)))
    other = draw_file(Draw(unet, 1), without_alpha, ("PEFT",)).state
    for name, state in (("adapter_model", other), ("kohya", drawn.state)):
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / f"{name}.safetensors")
    fuse_lora(unet, tmp_path / "kohya.safetensors")
    assert differing(unet, drawn.expected, rtol=1e-5, atol=1e-5) == []


def test_that_a_text_encoders_part_is_left_out_is_said(small_unets, tmp_path, caplog):
    unet, _ = restored(small_unets[0])
    drawn = drawn_lora(draw := Draw(unet, 0))
    layer = "text_model_encoder_layers_0_mlp_fc1"
    for prefix in ("lora_te", "lora_te1", "text_encoder", "base_model.model"):
        drawn.state[f"{prefix}_{layer}.lora_down.weight"] = draw.tensor(2, 24)
    drawn.state["bundle_emb.mug.string_to_param.*"] = draw.tensor(1, 24)
    fuse_lora(unet, drawn.save(tmp_path, draw.rng))
    assert differing(unet, drawn.expected, rtol=1e-5, atol=1e-5) == []
    assert "left out: 5 tensors for the text encoder" in caplog.text
