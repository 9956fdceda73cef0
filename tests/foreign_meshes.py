"""Meshes that trimesh makes, written as others would write them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from scipy.spatial import KDTree
from trimesh.visual.material import PBRMaterial, SimpleMaterial
from trimesh.visual.texture import TextureVisuals

RED, GREEN, BLUE = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)


@dataclass(frozen=True)
class Made:
    """A mesh or scene, the format, and the corners of its faces (F, 3, 3) in the file's order."""

    scene: trimesh.Trimesh | trimesh.Scene
    suffix: str

    @property
    def corners(self) -> np.ndarray:
        if isinstance(self.scene, trimesh.Trimesh):
            return np.asarray(self.scene.triangles)
        return np.concatenate([part.triangles for part in self.scene.dump()])


def same_corners(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest distance between corners of faces (F, 3, 3) and those of the nearest faces of
    ``expected``: trimesh writes a scene's meshes in any order."""
    assert found.shape == expected.shape
    _, nearest = KDTree(expected.reshape(-1, 9)).query(found.reshape(-1, 9))
    assert len({*nearest.tolist()}) == len(found)
    return float(np.abs(found - expected[nearest]).max())


def box(at=(3.0, -2.0, 10.0), extents=(1.0, 2.0, 4.0)) -> trimesh.Trimesh:
    """Off the origin, each side of another length."""
    mesh = trimesh.creation.box(extents=extents)
    mesh.apply_translation(at)
    return mesh


def sphere() -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=3, radius=30.0)


def picture(size=32) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((size, size, 3), dtype=np.uint8)
    pixels[:, : size // 2], pixels[:, size // 2 :] = RED[:3], BLUE[:3]
    return Image.fromarray(pixels)


def unwrapped(mesh: trimesh.Trimesh) -> tuple[trimesh.Trimesh, np.ndarray]:
    """Faces apart, each in a cell of its own of the picture; and the coordinates."""
    apart = trimesh.Trimesh(
        mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3), process=False
    )
    side = int(np.ceil(np.sqrt(len(mesh.faces))))
    cell = np.arange(len(mesh.faces))
    low = np.stack([cell % side, cell // side], axis=1) / side
    corner = np.array([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]]) / side
    return apart, (low[:, None] + corner).reshape(-1, 2)


def textured(mesh, material) -> trimesh.Trimesh:
    apart, uv = unwrapped(mesh)
    apart.visual = TextureVisuals(uv=uv, material=material)
    return apart


def colored() -> trimesh.Trimesh:
    mesh = sphere()
    mesh.visual.vertex_colors = np.where(mesh.vertices[:, 2:] > 0, RED, BLUE).astype(np.uint8)
    return mesh


def two_materials() -> trimesh.Scene:
    """A red box and a textured sphere, which the scene moves."""
    plain = box()
    plain.visual = TextureVisuals(material=PBRMaterial(baseColorFactor=RED))
    scene = trimesh.Scene()
    scene.add_geometry(plain, node_name="a")
    ball = textured(
        trimesh.creation.icosphere(subdivisions=1), PBRMaterial(baseColorTexture=picture())
    )
    turn = trimesh.transformations.rotation_matrix(0.5, [0, 0, 1], [0, 0, 0])
    turn[:3, 3] = (5, 0, 0)
    scene.add_geometry(ball, node_name="b", transform=turn)
    return scene


def open_fan() -> trimesh.Trimesh:
    """Three faces at one edge."""
    vertices = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, -1, 0]]
    return trimesh.Trimesh(vertices, [[0, 1, 2], [0, 1, 3], [0, 1, 4]], process=False)


MESHES = {
    "box.glb": Made(box(), "glb"),
    "box.obj": Made(box(), "obj"),
    "box.ply": Made(box(), "ply"),
    "textured box.glb": Made(textured(box(), PBRMaterial(baseColorTexture=picture())), "glb"),
    "textured box.obj": Made(textured(box(), SimpleMaterial(image=picture())), "obj"),
    "sphere with colours of its vertices.glb": Made(colored(), "glb"),
    "sphere with colours of its vertices.ply": Made(colored(), "ply"),
    "two materials.glb": Made(two_materials(), "glb"),
    "no manifold.ply": Made(open_fan(), "ply"),
}


def write(name: str, folder: Path) -> Path:
    """The file of ``MESHES[name]`` in a new folder, with those that it names."""
    folder.mkdir()
    path = folder / name.replace(" ", "-")
    MESHES[name].scene.export(path)
    return path
