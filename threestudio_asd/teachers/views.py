"""UNets that see several views of one scene at once, and know their cameras.

MVDream (Shi et al. 2023, arXiv:2308.16512): self-attention runs over the tokens of all views of a
scene, cross-attention over each view's own; the camera, a matrix whose position is scaled to unit
length, is added to the time embedding. It is an ordinary ``UNet2DConditionModel`` with a class
embedding of 16 numbers (``class_embed_type="projection"``); how many views it takes stands in
``views.json`` beside its weights. MVDream's own files do not say: theirs are four.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.errors import UserError
from threestudio_asd.files import written_whole
from threestudio_asd.pretrained.signs import CAMERA_DIM, told_cameras

FILE = "views.json"
#: What a UNet that is told cameras has among its settings.
CAMERA_EMBEDDING = {
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": CAMERA_DIM,
}
#: How many views a network of MVDream's own files takes, and its settings besides those of the
#: model that it was trained from; its pictures have 256 pixels a side.
MVDREAM_VIEWS = 4
MVDREAM_SETTINGS = {**CAMERA_EMBEDDING, "sample_size": 32}
#: How the layers of the camera begin there.
MVDREAM_CAMERA = "model.diffusion_model.camera_embed."
_TINY = 1e-8


class JointAttention:
    """Self-attention over the tokens of ``views`` consecutive items; cross-attention as it was.

    Args:
        inner: The attention processor that computes both.
    """

    def __init__(self, views: int, inner: Any) -> None:
        self.views, self.inner = views, inner

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Float[Tensor, "B L C"],
        encoder_hidden_states: Tensor | None = None,
        **options: Any,
    ) -> Float[Tensor, "B L C"]:
        if encoder_hidden_states is not None:
            return self.inner(attn, hidden_states, encoder_hidden_states, **options)
        _, length, width = hidden_states.shape
        joint = hidden_states.reshape(-1, self.views * length, width)
        return self.inner(attn, joint, None, **options).reshape(-1, length, width)


def join_views(unet: nn.Module, views: int) -> None:
    """Let ``unet`` attend over groups of ``views`` consecutive items from now on; 1 ends it."""
    for processor in {id(p): p for p in unet.attn_processors.values()}.values():
        if isinstance(processor, JointAttention):
            processor.views = views
    if any(isinstance(p, JointAttention) for p in unet.attn_processors.values()) or views == 1:
        return
    unet.set_attn_processor(
        {name: JointAttention(views, inner) for name, inner in unet.attn_processors.items()}
    )


def knows_cameras(unet: nn.Module) -> bool:
    """Whether a UNet has an embedding for cameras, as :func:`camera_labels` makes them."""
    return told_cameras(unet.config)


def camera_labels(c2w: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 16"]:
    """Camera-to-world matrices as the network is told them: the position scaled to unit length.

    threestudio's own axes (columns right, up, backwards; z up) are MVDream's.
    """
    position = c2w[:, :3, 3:]
    scaled = c2w.clone()
    scaled[:, :3, 3:] = position / (position.norm(dim=1, keepdim=True) + _TINY)
    return scaled.flatten(1)


def check_groups(count: int, views: int) -> None:
    """Raises UserError if ``count`` views are no whole scenes of ``views``."""
    if count % views:
        raise UserError(
            f"The model takes {views} views of a scene at a time and was given {count}; set "
            f"data.batch_size to a multiple of {views} (and data.n_view to {views})."
        )


@contextmanager
def without_camera(unet: nn.Module) -> Iterator[None]:
    """In the block ``unet`` adds no camera to its time embedding, as for single pictures."""
    embedding, unet.class_embedding = unet.class_embedding, None
    try:
        yield
    finally:
        unet.class_embedding = embedding


def write_views(folder: Path, views: int) -> None:
    """Note beside a UNet's weights how many views it takes."""
    with written_whole(folder / FILE) as partial:
        partial.write_text(json.dumps({"n_view": views}) + "\n")


def read_views(folder: Path) -> int:
    """How many views the UNet in ``folder`` takes at once; 1 where nothing is noted.

    Raises:
        UserError: The note cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        return 1
    try:
        views = json.loads(file.read_text())["n_view"]
        if not isinstance(views, int) or views < 1:
            raise ValueError(f"n_view is {views!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{file} cannot be read ({error}); it should say {{"n_view": 4}}, or as many views as '
            "the network was trained with."
        ) from error
    return views
