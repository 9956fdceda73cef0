"""Occupancy grid: where along a ray is there anything to evaluate?

nerfacc 0.5's ``OccGridEstimator`` in names, buffers and meaning. Along each ray lies one lattice
of steps that starts at the near plane; a step is a sample if its midpoint lies in an occupied
cell. (Li et al., "NerfAcc: Efficient sampling accelerates NeRFs", 2023; the grid itself is that of
instant-ngp, Müller et al. 2022, appendix C.)
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from threestudio_asd.errors import UserError
from threestudio_asd.kernels._warp import check_tensor
from threestudio_asd.kernels.march import Real, Samples, march
from threestudio_asd.kernels.volrend import (
    Rays,
    render_transmittance_from_density,
    visible_samples,
)


class OccGridEstimator(nn.Module):
    """Occupancy grid with exponential forgetting.

    Args:
        roi_aabb: (x0, y0, z0, x1, y1, z1) of the finest level.
        resolution: cells per axis, one number or three.
        levels: nested grids; each doubles the box of the one before.

    Buffers: ``aabbs`` (levels, 6), ``occs`` (levels * cells), ``binaries`` (levels, X, Y, Z),
    ``resolution`` (3).

    Raises:
        UserError: on an empty box or a size below 1.
    """

    def __init__(
        self,
        roi_aabb: Sequence[Real] | Tensor,
        resolution: int | Sequence[int] | Tensor = 32,
        levels: int = 1,
    ) -> None:
        super().__init__()
        roi = torch.as_tensor(roi_aabb, dtype=torch.float32).detach().cpu()
        if roi.shape != (6,) or not bool((roi[3:] > roi[:3]).all()):
            raise UserError(
                f"roi_aabb must be (x0, y0, z0, x1, y1, z1) with x0 < x1 ..., got {roi.tolist()}."
            )
        if isinstance(resolution, int):
            resolution = [resolution] * 3
        size = torch.as_tensor(resolution, dtype=torch.int32).cpu()
        if size.shape != (3,) or int(size.min()) < 1 or levels < 1:
            raise UserError(
                f"The occupancy grid needs resolution and levels of at least 1, got "
                f"resolution={size.tolist()}, levels={levels}."
            )
        center, half = (roi[:3] + roi[3:]) / 2, (roi[3:] - roi[:3]) / 2
        boxes = [torch.cat([center - half * 2**i, center + half * 2**i]) for i in range(levels)]
        self.levels = levels
        self.cells_per_lvl = math.prod(size.tolist())
        self.register_buffer("resolution", size)
        self.register_buffer("aabbs", torch.stack(boxes))
        self.register_buffer("occs", torch.zeros(levels * self.cells_per_lvl))
        self.register_buffer("binaries", torch.zeros(levels, *size.tolist(), dtype=torch.bool))

    @torch.no_grad()
    def sampling(
        self,
        rays_o: Float[Tensor, "R 3"],
        rays_d: Float[Tensor, "R 3"],
        sigma_fn: Callable | None = None,
        alpha_fn: Callable | None = None,
        near_plane: Real = 0.0,
        far_plane: Real = 1e10,
        t_min: Float[Tensor, "R"] | None = None,
        t_max: Float[Tensor, "R"] | None = None,
        render_step_size: Real = 1e-3,
        early_stop_eps: Real = 1e-4,
        alpha_thre: Real = 0.0,
        stratified: bool = False,
        cone_angle: Real = 0.0,
    ) -> Samples:
        """Where to evaluate the field: (ray_indices, t_starts, t_ends), sorted by ray, then t.

        Args:
            sigma_fn: (t_starts, t_ends, ray_indices) -> densities (N,); with it (or ``alpha_fn``,
                which returns opacities) samples that are hidden (T < early_stop_eps) or empty
                (opacity < min(alpha_thre, mean occupancy)) are dropped.
            near_plane, far_plane: distances, tightened per ray by ``t_min`` and ``t_max``.
            stratified: shift each ray's lattice by up to one step (torch's global generator).
            cone_angle: grow the steps with distance.

        Raises:
            UserError: on a wrong shape, dtype or device, a step size <= 0, or both functions.
        """
        self._check_rays(rays_o, rays_d)
        if not (render_step_size > 0 and cone_angle >= 0 and math.isfinite(render_step_size)):
            raise UserError(
                f"sampling needs render_step_size > 0 and cone_angle >= 0, got {render_step_size} "
                f"and {cone_angle}."
            )
        if sigma_fn is not None and alpha_fn is not None:
            raise UserError("sampling takes sigma_fn or alpha_fn, not both.")
        nears = rays_o.new_full((rays_o.shape[0],), near_plane)
        fars = rays_o.new_full((rays_o.shape[0],), far_plane)
        nears = nears if t_min is None else nears.maximum(t_min)
        fars = fars if t_max is None else fars.minimum(t_max)
        if stratified:
            nears = nears + torch.rand_like(nears) * render_step_size
        samples = march(
            rays_o, rays_d, self.aabbs, self.binaries, nears, fars, render_step_size, cone_angle
        )
        field = sigma_fn if sigma_fn is not None else alpha_fn
        if field is None or samples[0].numel() == 0 or (alpha_thre <= 0 and early_stop_eps <= 0):
            return samples
        return self._drop_invisible(
            samples, field, field is sigma_fn, rays_o.shape[0], early_stop_eps, alpha_thre
        )

    def _check_rays(self, rays_o: Tensor, rays_d: Tensor) -> None:
        check_tensor("rays_o", rays_o, "(R, 3)", ndim=2, last=3, like=self.aabbs)
        check_tensor("rays_d", rays_d, "(R, 3)", ndim=2, last=3, like=self.aabbs)
        if rays_o.shape != rays_d.shape:
            raise UserError(
                f"rays_o and rays_d must have one shape, got {tuple(rays_o.shape)} and "
                f"{tuple(rays_d.shape)}."
            )

    def _drop_invisible(
        self,
        samples: Samples,
        field: Callable,
        is_density: bool,
        n_rays: int,
        early_stop_eps: Real,
        alpha_thre: Real,
    ) -> tuple[Int[Tensor, "K"], Float[Tensor, "K"], Float[Tensor, "K"]]:
        rays, starts, ends = samples
        value = field(starts, ends, rays)
        if not isinstance(value, Tensor) or value.shape != starts.shape:
            raise UserError(
                f"sigma_fn and alpha_fn must return one value per sample, ({starts.numel()},), "
                f"got {tuple(getattr(value, 'shape', ())) or type(value).__name__}."
            )
        if not is_density:  # an opacity over a step of length 1 is a density of -log(1 - α)
            starts, ends = torch.zeros_like(value), torch.ones_like(value)
            value = -torch.log1p(-value)
        keep = self.visible(Rays(rays, n_rays), starts, ends, value, early_stop_eps, alpha_thre)
        kept = keep.nonzero()[:, 0]
        return tuple(part.index_select(0, kept) for part in samples)

    def visible(
        self,
        rays: Rays,
        t_starts: Float[Tensor, "N"],
        t_ends: Float[Tensor, "N"],
        sigmas: Float[Tensor, "N"],
        early_stop_eps: Real = 1e-4,
        alpha_thre: Real = 0.0,
    ) -> Bool[Tensor, "N"]:
        """Which samples with densities ``sigmas`` are neither hidden nor empty: T >= early_stop_eps
        and opacity >= min(alpha_thre, mean occupancy)."""
        trans, alphas = render_transmittance_from_density(
            t_starts, t_ends, sigmas.to(t_starts.dtype), ray_indices=rays
        )
        threshold = self.occs.mean().clamp(max=alpha_thre)
        return visible_samples(trans, alphas, early_stop_eps, threshold)

    def update_every_n_steps(
        self,
        step: int,
        occ_eval_fn: Callable,
        occ_thre: Real = 1e-2,
        ema_decay: Real = 0.95,
        warmup_steps: int = 256,
        n: int = 16,
    ) -> None:
        """Every ``n`` steps: decay the visited cells and raise them to the field's occupancy.

        All cells are visited before ``warmup_steps``; later as many as a quarter of the cells,
        drawn uniformly, and at most as many occupied ones. A cell is occupied above
        min(occ_thre, mean occupancy).

        Args:
            occ_eval_fn: points (M, 3) in the world -> occupancy (M, 1), e.g. density * step size.

        Raises:
            UserError: outside training mode, or if occ_eval_fn returns a wrong shape.
        """
        if not self.training:
            raise UserError("The occupancy grid is updated in training mode only: call .train().")
        if step % n == 0:
            self._update(step < warmup_steps, occ_eval_fn, occ_thre, ema_decay)

    @torch.no_grad()
    def _update(
        self, everywhere: bool, occ_eval_fn: Callable, occ_thre: Real, ema_decay: Real
    ) -> None:
        for level in range(self.levels):
            cells = self._all_cells() if everywhere else self._random_cells(level)
            box = self.aabbs[level]
            corner = torch.stack(torch.unravel_index(cells, self.binaries.shape[1:]), dim=-1)
            unit = (corner + torch.rand(corner.shape, device=box.device)) / self.resolution
            occupancy = occ_eval_fn(box[:3] + unit * (box[3:] - box[:3]))
            if occupancy.numel() != cells.numel():
                raise UserError(
                    f"occ_eval_fn must return one occupancy per point, ({cells.numel()}, 1), got "
                    f"{tuple(occupancy.shape)}."
                )
            occs = self.occs[level * self.cells_per_lvl :][: self.cells_per_lvl]
            # A cell drawn twice decays once and keeps its larger value.
            occs[cells] = occs[cells] * ema_decay
            occs.scatter_reduce_(0, cells, occupancy.reshape(-1).to(occs.dtype), "amax")
        threshold = self.occs.mean().clamp(max=occ_thre)
        self.binaries = (self.occs > threshold).view(self.binaries.shape)

    def _all_cells(self) -> Int[Tensor, "M"]:
        return torch.arange(self.cells_per_lvl, device=self.occs.device)

    def _random_cells(self, level: int) -> Int[Tensor, "M"]:
        count, device = self.cells_per_lvl // 4, self.occs.device
        uniform = torch.randint(self.cells_per_lvl, (count,), device=device)
        occupied = self.binaries[level].flatten().nonzero()[:, 0]
        if occupied.numel() > count:
            occupied = occupied[torch.randint(occupied.numel(), (count,), device=device)]
        return torch.cat([uniform, occupied])
