"""``nerf-volume-renderer``: emission-absorption rendering of a density field.

Samples come from a 32^3 occupancy grid. A first pass without gradients drops the samples that
hardly show; geometry and material are then evaluated once, on the rest.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.kernels.occgrid import OccGridEstimator
from threestudio_asd.kernels.volrend import accumulate_along_rays, render_weight_from_density
from threestudio_asd.studio.models.background.base import BaseBackground
from threestudio_asd.studio.models.geometry.base import BaseGeometry
from threestudio_asd.studio.models.material.base import BaseMaterial
from threestudio_asd.studio.models.ops import chunk_batch
from threestudio_asd.studio.models.renderer.base import VolumeRenderer
from threestudio_asd.studio.models.renderer.samples import RaySamples
from threestudio_asd.studio.registry import register

GRID_RESOLUTION = 32
# A sample less opaque than this is dropped before geometry is evaluated with gradients.
ALPHA_THRESHOLD = 0.01


@register("nerf-volume-renderer")
class NeRFVolumeRenderer(VolumeRenderer):
    @dataclass
    class Config(VolumeRenderer.Config):
        # Steps through the diagonal of the scene's cube, most of which the grid skips.
        num_samples_per_ray: int = 512
        eval_chunk_size: int = 160000
        # In training, one random offset per ray.
        randomized: bool = True
        near_plane: float = 0.0
        far_plane: float = 1e10
        return_comp_normal: bool = False
        return_normal_perturb: bool = False
        estimator: str = "occgrid"
        grid_prune: bool = True
        prune_alpha_threshold: bool = True
        # Accepted for the sake of shared configs; they belong to the other estimators.
        proposal_network_config: dict | None = None
        prop_optimizer_config: dict | None = None
        prop_scheduler_config: dict | None = None
        num_samples_per_ray_proposal: int = 64
        num_samples_per_ray_importance: int = 64

    cfg: Config

    def configure(
        self, geometry: BaseGeometry, material: BaseMaterial, background: BaseBackground
    ) -> None:
        super().configure(geometry, material, background)
        self._check_config()
        self.estimator = OccGridEstimator(
            roi_aabb=self.bbox.view(-1), resolution=GRID_RESOLUTION, levels=1
        )
        if not self.cfg.grid_prune:
            self.estimator.occs.fill_(1)
            self.estimator.binaries.fill_(True)
        # 1.732 = sqrt(3): the cube's diagonal takes num_samples_per_ray steps.
        self.render_step_size = 1.732 * 2 * self.cfg.radius / self.cfg.num_samples_per_ray

    def _check_config(self) -> None:
        if self.cfg.estimator in ("importance", "proposal"):
            raise UserError(
                f"renderer.estimator={self.cfg.estimator} is accepted by threestudio but not "
                "implemented on the bundled host; use occgrid."
            )
        if self.cfg.estimator != "occgrid":
            raise UserError(f"renderer.estimator is '{self.cfg.estimator}'; use occgrid.")
        if self.cfg.num_samples_per_ray < 1:
            raise UserError("renderer.num_samples_per_ray must be 1 or more.")

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        if self.cfg.grid_prune and self.training and not on_load_weights:
            self.estimator.update_every_n_steps(step=global_step, occ_eval_fn=self._occupancy)

    def _occupancy(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 1"]:
        """Opacity of one step through ``points``, to first order."""
        return self.geometry.forward_density(points) * self.render_step_size

    def forward(
        self,
        rays_o: Float[Tensor, "B H W 3"],
        rays_d: Float[Tensor, "B H W 3"],
        light_positions: Float[Tensor, "B 3"],
        bg_color: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Images and, in training, the samples that made them.

        Args:
            rays_d: unit directions.
            bg_color: replaces the background: (B Nc), (B H W Nc) or (B*H*W Nc).

        Returns:
            Images (B H W C): ``comp_rgb``, ``comp_rgb_fg``, ``comp_rgb_bg``, ``opacity``,
            ``depth`` (weighted, zero where nothing is hit), ``z_variance`` and, in evaluation or
            with ``return_comp_normal``, ``comp_normal`` in [0, 1] if the material needs normals.
            In training also, per sample, ``weights t_points t_intervals`` (N 1), ``t_dirs
            points`` (N 3), ``ray_indices`` (N) and everything that the geometry returned.
        """
        samples = self._sample(rays_o.reshape(-1, 3), rays_d.reshape(-1, 3))
        geo_out, rgb = self._shade(samples, light_positions, kwargs)
        background = self.background(dirs=rays_d)
        weights, _, _ = render_weight_from_density(
            samples.t_starts,
            samples.t_ends,
            geo_out["density"][..., 0],
            ray_indices=samples.ray_indices,
            n_rays=samples.n_rays,
        )
        flat = self._composite(samples, weights, rgb)
        behind = _background_rows(background if bg_color is None else bg_color, rays_o.shape[:3])
        flat["comp_rgb"] = flat["comp_rgb_fg"] + behind * (1 - flat["opacity"])
        if "normal" in geo_out and (self.cfg.return_comp_normal or not self.training):
            flat["comp_normal"] = self._composite_normal(samples, weights, geo_out["normal"], flat)
        out = {key: image.view(*rays_o.shape[:3], -1) for key, image in flat.items()}
        out["comp_rgb_bg"] = background
        if self.training:
            out |= {"weights": weights[:, None], **samples.as_output(), **geo_out}
            if self.cfg.return_normal_perturb:
                out["normal_perturb"] = self._perturbed_normal(samples.positions)
        return out

    @torch.no_grad()
    def _sample(self, rays_o: Float[Tensor, "Nr 3"], rays_d: Float[Tensor, "Nr 3"]) -> RaySamples:
        prune = self.cfg.grid_prune and self.cfg.prune_alpha_threshold

        def sigma_fn(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> Tensor:
            middle = RaySamples(rays_o, rays_d, ray_indices, t_starts, t_ends).positions
            chunk = 0 if self.training else self.cfg.eval_chunk_size
            return chunk_batch(self.geometry.forward_density, chunk, middle)[..., 0]

        ray_indices, t_starts, t_ends = self.estimator.sampling(
            rays_o,
            rays_d,
            sigma_fn=sigma_fn if prune else None,
            near_plane=self.cfg.near_plane,
            far_plane=self.cfg.far_plane,
            render_step_size=self.render_step_size,
            alpha_thre=ALPHA_THRESHOLD if prune else 0.0,
            stratified=self.training and self.cfg.randomized,
            cone_angle=0.0,
            early_stop_eps=1e-4 if self.cfg.grid_prune else 0.0,
        )
        if len(ray_indices) == 0:
            # One sample of no length: it adds nothing, and every output keeps its gradient.
            ray_indices = torch.zeros(1, dtype=torch.int64, device=rays_o.device)
            t_starts = t_ends = torch.zeros(1, device=rays_o.device)
        return RaySamples(rays_o, rays_d, ray_indices, t_starts, t_ends)

    def _shade(
        self, samples: RaySamples, light_positions: Float[Tensor, "B 3"], extra: dict[str, Any]
    ) -> tuple[dict[str, Tensor], Float[Tensor, "N Nc"]]:
        """The geometry's output and the colour of every sample."""
        image = samples.ray_indices // (samples.n_rays // len(light_positions))
        lights = light_positions.index_select(0, image)

        def shade(positions: Tensor, viewdirs: Tensor, lights: Tensor) -> dict[str, Tensor]:
            geo_out = self.geometry(positions, output_normal=self.material.requires_normal)
            rgb = self.material(
                viewdirs=viewdirs,
                positions=positions,
                light_positions=lights,
                **geo_out,
                **extra,
            )
            return {"rgb": rgb, **geo_out}

        chunk = 0 if self.training else self.cfg.eval_chunk_size
        out = chunk_batch(shade, chunk, samples.positions, samples.dirs, lights)
        return out, out.pop("rgb")

    def _composite(
        self, samples: RaySamples, weights: Float[Tensor, "N"], rgb: Float[Tensor, "N Nc"]
    ) -> dict[str, Float[Tensor, "Nr _"]]:
        """Colour, opacity, expected depth and its variance (HiFA, arXiv:2305.18766) per ray."""
        rays = {"ray_indices": samples.ray_indices, "n_rays": samples.n_rays}
        t = samples.t_middle
        # One pass for all channels.
        values = torch.cat([torch.ones_like(t), t, rgb], dim=-1)
        sums = accumulate_along_rays(weights, values=values, **rays)
        opacity, depth, comp_rgb_fg = sums[:, :1], sums[:, 1:2], sums[:, 2:]
        mass = opacity.clamp(min=1e-5)
        offset = t - samples.of_ray(depth / mass)
        variance = accumulate_along_rays(weights, values=offset.square(), **rays) / mass
        return {
            "comp_rgb_fg": comp_rgb_fg,
            "opacity": opacity,
            "depth": depth,
            "z_variance": variance * (opacity > 0.5),
        }

    def _composite_normal(
        self,
        samples: RaySamples,
        weights: Float[Tensor, "N"],
        normal: Float[Tensor, "N 3"],
        flat: dict[str, Tensor],
    ) -> Float[Tensor, "Nr 3"]:
        mean = accumulate_along_rays(
            weights, values=normal, ray_indices=samples.ray_indices, n_rays=samples.n_rays
        )
        return (F.normalize(mean, dim=-1) + 1) / 2 * flat["opacity"]

    def _perturbed_normal(self, positions: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Normals a hundredth of a scene unit away, for losses on their smoothness."""
        nearby = positions + 0.01 * torch.randn_like(positions)
        return self.geometry(nearby, output_normal=True)["normal"]


def _background_rows(color: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """A background colour (per image, per pixel or flat) as one row per ray."""
    if color.shape[:-1] == image_shape[:1]:
        color = color[:, None, None, :].expand(*image_shape, -1)
    return color.reshape(-1, color.shape[-1])
