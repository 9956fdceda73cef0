"""Names of a small UNet's layers in Stable Diffusion's own checkpoints, written by hand."""

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0": "output_blocks.1.1",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def ldm(path):
    """The name of the layer that diffusers calls ``path``."""
    block = next(block for block in BLOCKS if path == block or path.startswith(block + "."))
    rest = path.removeprefix(block)
    if "resnets" in block:
        rest = f".{RESNET[rest[1:]]}"
    return BLOCKS[block] + rest


def original_unet(state):
    """A UNet's tensors under the names of Stable Diffusion's own checkpoints."""
    result = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        result[f"model.diffusion_model.{ldm(layer)}.{kind}"] = value
    return result
