"""Whether a mesh is worth writing."""

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio_asd import log
from threestudio_asd.errors import UserError
from threestudio_asd.scene.mesh import Mesh

# Surface area over that of the mesh's box. A ball has 0.5, a bare tree a few; foam, the level set
# of noise, has more than a tenth of its samples per axis.
FOAM = 10.0


@torch.no_grad()
def check_mesh(mesh: Mesh, bbox: Float[Tensor, "2 3"]) -> None:
    """Warn of holes, and where they are.

    Args:
        bbox: the scene's cube.

    Raises:
        UserError: the mesh is empty, or what a diverged training or a threshold within noise
            leaves: positions that are not finite or out of the scene, or foam.
    """
    v_pos = mesh.v_pos
    if len(mesh.t_pos_idx) == 0:
        raise UserError(
            "The mesh is empty: nothing is left of the surface. Lower "
            "system.geometry.isosurface_threshold (or isosurface_outlier_n_faces_threshold, which "
            "removes small parts), or train longer."
        )
    broken = int((~v_pos.isfinite()).any(-1).sum())
    if broken:
        raise UserError(
            f"The mesh has exploded: {broken} of {len(v_pos)} vertices are not finite. Export an "
            "earlier checkpoint, and lower the learning rates of the geometry."
        )
    reach = (v_pos - bbox.mean(0)).abs().amax().item()
    half = ((bbox[1] - bbox[0]) / 2).amax().item()
    if reach > 1.1 * half:
        raise UserError(
            f"The mesh has exploded: it reaches {reach:.3g} from the centre of a scene of half "
            f"side {half:.3g}. Export an earlier checkpoint, and lower the learning rates."
        )
    _refuse_foam(mesh)
    _tell_holes(mesh, bbox)


def _refuse_foam(mesh: Mesh) -> None:
    a, b, c = mesh.v_pos[mesh.t_pos_idx].unbind(1)
    area = torch.linalg.cross(b - a, c - a, dim=-1).norm(dim=-1).sum().item() / 2
    x, y, z = (mesh.v_pos.amax(0) - mesh.v_pos.amin(0)).tolist()
    box = 2 * (x * y + y * z + z * x)
    if area > FOAM * box:
        raise UserError(
            f"The mesh is foam: its surface has {area / box:.0f} times the area of its box, so the "
            "threshold lies within the field's noise. Raise "
            "system.geometry.isosurface_threshold, or train longer."
        )


def _tell_holes(mesh: Mesh, bbox: Float[Tensor, "2 3"]) -> None:
    rim = mesh.v_pos[mesh.edges[mesh.edge_counts == 1]].reshape(-1, 3)
    if len(rim) == 0:
        return
    at = 1e-3 * (bbox[1] - bbox[0]).amax()
    sides = [(rim - corner).abs().amin(0) < at for corner in bbox]
    names = [
        f"{'xyz'[i]} = {bbox[s, i].item():.3g}" for s in (0, 1) for i in range(3) if sides[s][i]
    ]
    where = f"; the scene's cube cuts it off at {', '.join(names)}" if names else ""
    low, high = rim.amin(0).tolist(), rim.amax(0).tolist()
    box = ", ".join(f"{n} {a:.2f}..{b:.2f}" for n, a, b in zip("xyz", low, high, strict=True))
    log.warn("The mesh has holes: %d open edges within %s%s.", len(rim) // 2, box, where)
