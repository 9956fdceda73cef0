"""A GLB drawn by others: trimesh reads it, Embree traces it, NumPy looks up its colours."""

import math

import numpy as np
import trimesh

# glTF: y up, seen from +z; here z up, seen from +x.
TO_Z_UP = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])


def render(path, azimuth, elevation, distance, fovy, size, ambient=1.0, diffuse=0.0):
    """Colours (size, size, 3) in [0, 1] and the mask (size, size); angles in degrees.

    ``diffuse`` is the strength of a light at the camera.
    """
    (mesh,) = trimesh.load(path, process=False).geometry.values()
    traced = trimesh.Trimesh(mesh.vertices @ TO_Z_UP.T, mesh.faces, process=False)
    eye, rays = camera(azimuth, elevation, distance, fovy, size)
    hits, which, triangles = trimesh.ray.ray_pyembree.RayMeshIntersector(
        traced
    ).intersects_location(np.tile(eye, (len(rays), 1)), rays, multiple_hits=False)
    weights = trimesh.triangles.points_to_barycentric(traced.triangles[triangles], hits)
    image, mask = np.zeros((size * size, 3)), np.zeros(size * size, dtype=bool)
    mask[which] = True
    normals = mesh.vertex_normals @ TO_Z_UP.T
    normals = (normals[mesh.faces[triangles]] * weights[..., None]).sum(1)
    cosine = (unit(normals) * unit(eye - hits)).sum(1, keepdims=True).clip(0)
    image[which] = colours(mesh, triangles, weights) * (ambient + diffuse * cosine)
    return image.reshape(size, size, 3), mask.reshape(size, size)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def camera(azimuth, elevation, distance, fovy, size):
    a, e = math.radians(azimuth), math.radians(elevation)
    back = np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    right = np.array([-math.sin(a), math.cos(a), 0.0])
    up = np.cross(back, right)
    steps = (2 * np.arange(size) + 1 - size) / size * math.tan(math.radians(fovy) / 2)
    rays = -back + steps[None, :, None] * right - steps[:, None, None] * up
    return distance * back, rays.reshape(-1, 3)


def colours(mesh, triangles, weights):
    """The texture between its four nearest texels."""
    uv = (mesh.visual.uv[mesh.faces[triangles]] * weights[..., None]).sum(1)
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB")) / 255.0
    height, width = texture.shape[:2]
    # trimesh counts v from the bottom.
    at = np.stack([(1 - uv[:, 1]) * height, uv[:, 0] * width], axis=1) - 0.5
    low = np.floor(at).astype(int)
    total = np.zeros((len(uv), 3))
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = low[:, 0] + dy, low[:, 1] + dx
            share = (1 - abs(at[:, 0] - y)) * (1 - abs(at[:, 1] - x))
            total += share[:, None] * texture[y.clip(0, height - 1), x.clip(0, width - 1)]
    return total
