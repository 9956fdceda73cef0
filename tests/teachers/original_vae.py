"""Names of an autoencoder's layers in Stable Diffusion's own checkpoints, written by hand."""


def original_vae(state):
    """An autoencoder's tensors under these names: four levels, one attention."""
    changes = {
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
        "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
        "mid_block.attentions.0.to_": "mid.attn_1.",
        "conv_shortcut": "nin_shortcut",
        "conv_norm_out": "norm_out",
        ".resnets.": ".block.",
        ".downsamplers.0.": ".downsample.",
        ".upsamplers.0.": ".upsample.",
    }
    changes |= {f"down_blocks.{i}.": f"down.{i}." for i in range(4)}
    changes |= {f"up_blocks.{i}.": f"up.{3 - i}." for i in range(4)}
    result = {}
    for name, value in state.items():
        for old, new in changes.items():
            name = name.replace(old, new)
        result[f"first_stage_model.{name}"] = value
    return result
