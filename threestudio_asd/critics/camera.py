"""The critic's knowledge of the camera, as in ProlificDreamer (arXiv:2305.16213, section 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio_asd.teachers.views import CAMERA_DIM


class CameraEmbedding(nn.Module):
    """A two-layer perceptron from a flattened camera matrix to the UNet's time embedding.

    The UNet adds its output to the time embedding, as it does with class embeddings.

    Args:
        time_embed_dim: Width of the UNet's time embedding (1280 for Stable Diffusion).
    """

    def __init__(self, time_embed_dim: int) -> None:
        from diffusers.models.embeddings import TimestepEmbedding

        super().__init__()
        self.mlp = TimestepEmbedding(CAMERA_DIM, time_embed_dim)

    def forward(self, labels: Float[Tensor, "B 16"]) -> Float[Tensor, "B E"]:
        return self.mlp(labels.to(self.mlp.linear_1.weight.dtype))

    def labels(
        self,
        camera: Float[Tensor, "B 4 4"] | None,
        like: Float[Tensor, "B C h w"],
    ) -> Float[Tensor, "B 16"]:
        """The UNet's class labels on the device of ``like``: all zeros for no camera."""
        if camera is None:
            return torch.zeros(like.shape[0], CAMERA_DIM, device=like.device)
        return camera.flatten(1).to(like.device, torch.float32)
