"""Write what the commands for editing are shown with: ``examples/`` from true scenes.

``red-mug.png`` is a picture of the embedded world. ``blurred-mushroom.glb`` is the true surface of
its red mushroom, whose colours are blurred in space: each is the mean of the true colours around it
(a Gaussian of standard deviation ``BLUR``, in scene units).
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from threestudio_asd.compare.measure.reference import truth_mesh
from threestudio_asd.scene.foreign.clusters import clustered
from threestudio_asd.scene.formats import write_mesh
from threestudio_asd.scene.mesh import Mesh
from threestudio_asd.scene.uv import fill_map, texel_positions
from threestudio_asd.tiny.render import fixed_views
from threestudio_asd.tiny.scenes import color

OBJECT, COLOR = "mushroom", "red"
BLUR, SAMPLES = 0.45, 256
CELL = 0.05  # of vertices made one, scene units
TEXTURE = 128  # texels to a side


def surface(object_name: str = OBJECT, cell: float = CELL) -> Mesh:
    """The true surface, with texture coordinates."""
    true = truth_mesh(object_name)
    vertices, faces = clustered(true.vertices, true.faces, cell)
    mesh = Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(faces))
    mesh.unwrap_uv(None, {"resolution": TEXTURE})
    return mesh


def blurred(mesh: Mesh, object_name: str = OBJECT, color_name: str = COLOR) -> torch.Tensor:
    """Its texture (H, W, 3)."""
    generator = torch.Generator().manual_seed(0)
    parts = (mesh.v_tex, mesh.t_tex_idx, mesh.v_pos, mesh.t_pos_idx)
    texel, points = texel_positions(*parts, TEXTURE)
    total = torch.zeros(len(points), 3)
    for _ in range(SAMPLES):
        offset = BLUR * torch.randn(points.shape, generator=generator)
        total += color(object_name, color_name, points + offset)
    return fill_map(texel, total / SAMPLES, TEXTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("examples"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    picture = fixed_views("mug", "red", size=256)[0][1]
    pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(args.out / "red-mug.png", optimize=True)
    mesh = surface()
    write_mesh(args.out / "blurred-mushroom.glb", mesh, True, blurred(mesh))
    for path in sorted(args.out.iterdir()):
        print(f"{path.stat().st_size / 1000:6.1f} kB  {path}")


if __name__ == "__main__":
    main()
