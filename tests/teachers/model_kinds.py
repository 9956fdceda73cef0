"""Configurations of models of other kinds than the teacher's."""

import json

from threestudio_asd.pretrained import kinds

# A UNet of this size: of the kind that a teacher is.
TINY = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}
# What the message says -> settings of a UNet that diffusers builds.
UNETS = {
    "an SDXL model": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    },
    "a Kandinsky 2": {"addition_embed_type": "image", "encoder_hid_dim": 24},
    "a model with an image encoder": {
        "encoder_hid_dim_type": "image_proj",
        "encoder_hid_dim": 24,
    },
    "a DeepFloyd IF model": {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 24},
    "a model with additional embeddings": {
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
    },
    "a guidance-distilled model": {"time_cond_proj_dim": 32},
    "an inpainting model": {"in_channels": 9},
    "a depth-to-image model": {"in_channels": 5},
    "an upscaler": {"in_channels": 7, "num_class_embeds": 10},
    "an InstructPix2Pix": {"in_channels": 8},
    "a model with class labels": {"num_class_embeds": 10},
    "a model with class embeddings": {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 12,
    },
    "a model of other channels": {"in_channels": 3, "out_channels": 3},
    "out_channels 8": {"out_channels": 8},
    "a mixture of two models": {"cross_attention_dim": 32},
}


def change(folder, part, **changes):
    """Other values in the configuration of a model's part."""
    file = folder / kinds.config_file(part)
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
