"""``nerf-volume-renderer``: emission-absorption rendering of a density field.

Samples come from a 32^3 occupancy grid; those that hardly show are dropped. On the CPU the rays are
rendered in pieces (:mod:`threestudio_asd.parallel`).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threestudio_asd.errors import UserError
from threestudio_asd.kernels.occgrid import OccGridEstimator
from threestudio_asd.kernels.volrend import accumulate_along_rays, render_weight_from_density
from threestudio_asd.parallel import map_batch, trained
from threestudio_asd.studio.base import BaseModule
from threestudio_asd.studio.models.geometry.base import BaseGeometry
from threestudio_asd.studio.models.material.base import BaseMaterial
from threestudio_asd.studio.models.ops import chunk_batch
from threestudio_asd.studio.models.renderer.base import VolumeRenderer
from threestudio_asd.studio.models.renderer.samples import RaySamples
from threestudio_asd.studio.registry import register

GRID_RESOLUTION = 32
# A sample less opaque than this is dropped before geometry is evaluated with gradients.
ALPHA_THRESHOLD = 0.01
# Geometry and material are evaluated once at up to this many samples of a piece, and
# those that hardly show are dropped afterwards: they are too few to pay for a pass of their own.
SHADED_AT_ONCE = 2**18
# One row per ray, in contrast to one per sample.
IMAGES = {"comp_rgb", "comp_rgb_fg", "opacity", "depth", "z_variance", "comp_normal"}


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
        self, geometry: BaseGeometry, material: BaseMaterial, background: BaseModule
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
        return map_batch(self.geometry.forward_density, points) * self.render_step_size

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
        n_rays = rays_o.shape[:3].numel()
        # Drawn for the whole batch, not by its pieces: offsets, then what the material draws.
        nears = torch.full((n_rays,), float(self.cfg.near_plane), device=rays_o.device)
        if self.training and self.cfg.randomized:
            nears = nears + torch.rand_like(nears) * self.render_step_size
        extra = {**self.material.draw(), **kwargs}
        rows = [
            rays_o.reshape(-1, 3),
            rays_d.reshape(-1, 3),
            light_positions[:, None, None].expand_as(rays_d).reshape(-1, 3),
            nears,
            torch.arange(n_rays, device=rays_o.device),
        ]
        out = map_batch(
            lambda *rows: self._render(*rows, extra),
            *rows,
            parameters=trained(self.geometry, self.material),
        )
        background = self.background(dirs=rays_d)
        behind = _background_rows(background if bg_color is None else bg_color, rays_o.shape[:3])
        out["comp_rgb"] = out["comp_rgb_fg"] + behind * (1 - out["opacity"])
        for key in IMAGES & out.keys():
            out[key] = out[key].view(*rays_o.shape[:3], -1)
        out["comp_rgb_bg"] = background
        if self.training and self.cfg.return_normal_perturb:
            out["normal_perturb"] = self._perturbed_normal(out["points"])
        return out

    def _render(
        self,
        rays_o: Float[Tensor, "Nr 3"],
        rays_d: Float[Tensor, "Nr 3"],
        lights: Float[Tensor, "Nr 3"],
        nears: Float[Tensor, "Nr"],
        number: Int[Tensor, "Nr"],
        extra: dict[str, Any],
    ) -> dict[str, Tensor]:
        """Everything about some of the batch's rays, whose place in it is ``number``: a row per ray
        of each image, and in training a row per sample of the rest."""
        samples, geo_out, rgb = self._shaded_samples(rays_o, rays_d, lights, nears, extra)
        weights, _, _ = render_weight_from_density(
            samples.t_starts,
            samples.t_ends,
            geo_out["density"][..., 0],
            ray_indices=samples.rays,
        )
        out = self._composite(samples, weights, rgb)
        if "normal" in geo_out and (self.cfg.return_comp_normal or not self.training):
            out["comp_normal"] = self._composite_normal(samples, weights, geo_out["normal"], out)
        if self.training:
            out |= {"weights": weights[:, None], **samples.as_output(), **geo_out}
            out["ray_indices"] = number.index_select(0, samples.ray_indices)
        return out

    def _shaded_samples(
        self, rays_o: Tensor, rays_d: Tensor, lights: Tensor, nears: Tensor, extra: dict[str, Any]
    ) -> tuple[RaySamples, dict[str, Tensor], Float[Tensor, "N Nc"]]:
        """The samples that show, the geometry's output there, and their colours."""
        samples = self._march(rays_o, rays_d, nears)
        prunes = self.cfg.grid_prune and self.cfg.prune_alpha_threshold and len(samples) > 0
        at_once = prunes and len(samples) <= SHADED_AT_ONCE
        # Normals may cost several evaluations of the density each.
        if at_once and not self.material.requires_normal:
            geo_out, rgb = self._shade(samples, lights, extra)
            kept = self._visible(samples, geo_out["density"].detach())
            if len(kept):
                geo_out = {key: value.index_select(0, kept) for key, value in geo_out.items()}
                return samples.at(kept), geo_out, rgb.index_select(0, kept)
            samples = samples.at(kept)
        elif prunes:
            chunk = 0 if self.training else self.cfg.eval_chunk_size
            with torch.no_grad():
                density = chunk_batch(self.geometry.forward_density, chunk, samples.positions)
            samples = samples.at(self._visible(samples, density))
        if len(samples) == 0:
            samples = RaySamples.nothing(rays_o, rays_d)
        return samples, *self._shade(samples, lights, extra)

    def _march(
        self,
        rays_o: Float[Tensor, "Nr 3"],
        rays_d: Float[Tensor, "Nr 3"],
        nears: Float[Tensor, "Nr"],
    ) -> RaySamples:
        """All samples in occupied cells."""
        found = self.estimator.sampling(
            rays_o,
            rays_d,
            near_plane=self.cfg.near_plane,
            far_plane=self.cfg.far_plane,
            t_min=nears,
            render_step_size=self.render_step_size,
        )
        return RaySamples(rays_o, rays_d, *found)

    @torch.no_grad()
    def _visible(self, samples: RaySamples, density: Float[Tensor, "N 1"]) -> Int[Tensor, "K"]:
        """Which samples show."""
        visible = self.estimator.visible(
            samples.rays,
            samples.t_starts,
            samples.t_ends,
            density[..., 0],
            early_stop_eps=1e-4,
            alpha_thre=ALPHA_THRESHOLD,
        )
        return visible.nonzero()[:, 0]

    def _shade(
        self, samples: RaySamples, lights: Float[Tensor, "Nr 3"], extra: dict[str, Any]
    ) -> tuple[dict[str, Tensor], Float[Tensor, "N Nc"]]:
        """The geometry's output and the colour of every sample."""

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
        lit = samples.positions, samples.dirs, samples.of_ray(lights)
        out = chunk_batch(shade, chunk, *lit)
        return out, out.pop("rgb")

    def _composite(
        self, samples: RaySamples, weights: Float[Tensor, "N"], rgb: Float[Tensor, "N Nc"]
    ) -> dict[str, Float[Tensor, "Nr _"]]:
        """Colour, opacity, expected depth and its variance (HiFA, arXiv:2305.18766) per ray."""
        rays, t = samples.rays, samples.t_middle
        # One pass for all channels.
        values = torch.cat([torch.ones_like(t), t, rgb], dim=-1)
        sums = accumulate_along_rays(weights, values=values, ray_indices=rays)
        opacity, depth, comp_rgb_fg = sums[:, :1], sums[:, 1:2], sums[:, 2:]
        mass = opacity.clamp(min=1e-5)
        offset = t - samples.of_ray(depth / mass)
        variance = accumulate_along_rays(weights, values=offset.square(), ray_indices=rays) / mass
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
        mean = accumulate_along_rays(weights, values=normal, ray_indices=samples.rays)
        return (F.normalize(mean, dim=-1) + 1) / 2 * flat["opacity"]

    def _perturbed_normal(self, positions: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Normals a hundredth of a scene unit away, for losses on their smoothness."""
        nearby = positions + 0.01 * torch.randn_like(positions)

        def normal(points: Tensor) -> Tensor:
            return self.geometry(points, output_normal=True)["normal"]

        return map_batch(normal, nearby, parameters=trained(self.geometry))


def _background_rows(color: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """A background colour (per image, per pixel or flat) as one row per ray."""
    if color.shape[:-1] == image_shape[:1]:
        color = color[:, None, None, :].expand(*image_shape, -1)
    return color.reshape(-1, color.shape[-1])
