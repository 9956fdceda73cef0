"""``neural-environment-map-background``, a small network of the view direction, and
threestudio-mvdream's name for it."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.studio.models.activations import get_activation
from threestudio_asd.studio.models.background.base import BaseBackground
from threestudio_asd.studio.models.networks import get_encoding, get_mlp
from threestudio_asd.studio.registry import register


@register("neural-environment-map-background")
class NeuralEnvironmentMapBackground(BaseBackground):
    @dataclass
    class Config(BaseBackground.Config):
        color_activation: str = "sigmoid"
        dir_encoding_config: dict = field(
            default_factory=lambda: {"otype": "SphericalHarmonics", "degree": 3}
        )
        mlp_network_config: dict = field(
            default_factory=lambda: {
                "otype": "VanillaMLP",
                "activation": "ReLU",
                "n_neurons": 16,
                "n_hidden_layers": 2,
            }
        )
        # Replaces the network outside training.
        eval_color: tuple[float, float, float] | None = None

    cfg: Config

    def configure(self) -> None:
        self.encoding = get_encoding(3, self.cfg.dir_encoding_config)
        self.network = get_mlp(
            self.encoding.n_output_dims, self.cfg.n_output_dims, self.cfg.mlp_network_config
        )
        self.color_activation = get_activation(self.cfg.color_activation)

    def color(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W Nc"]:
        shape = (*dirs.shape[:-1], self.cfg.n_output_dims)
        if not self.training and self.cfg.eval_color is not None:
            return torch.tensor(list(self.cfg.eval_color)).to(dirs).expand(shape)
        encoding = self.encoding((dirs.reshape(-1, 3) + 1) / 2)
        return self.color_activation(self.network(encoding)).view(shape)


@register("mvdream-neural-environment-map-background")
class SharedNeuralEnvironmentMapBackground(NeuralEnvironmentMapBackground):
    """The same, for views of one scene: they may stand before one random colour."""

    @dataclass
    class Config(NeuralEnvironmentMapBackground.Config):
        # Draw one random colour for the whole batch, not one for each image.
        share_aug_bg: bool = False

    cfg: Config

    def random_colors(self, images: int) -> int:
        return 1 if self.cfg.share_aug_bg else images
