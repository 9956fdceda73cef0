"""The critic's knowledge of the camera, as in ProlificDreamer (arXiv:2305.16213, section 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

#: A camera is a 4 x 4 matrix (camera-to-world or model-view-projection), row by row.
CAMERA_DIM = 16


class CameraEmbedding(nn.Module):
    """A two-layer perceptron from a flattened camera matrix to the UNet's time embedding.

    The UNet adds its output to the time embedding, as it does with class embeddings.

    Args:
        time_embed_dim: Width of the UNet's time embedding (1280 for Stable Diffusion).
        dropout: Probability that a training step hides the camera of the whole batch.
    """

    def __init__(self, time_embed_dim: int, dropout: float = 0.1) -> None:
        from diffusers.models.embeddings import TimestepEmbedding

        super().__init__()
        self.dropout = dropout
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

    def draw_dropout(self) -> bool:
        """Draw whether this training step hides the camera (from torch's global generator)."""
        return bool(torch.rand(()) < self.dropout)
