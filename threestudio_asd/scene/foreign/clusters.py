"""Fewer faces by clustering vertices (Rossignac & Borrel 1993)."""

from dataclasses import replace

import numpy as np

from threestudio_asd.errors import UserError
from threestudio_asd.scene.foreign.mesh import ForeignMesh, unit
from threestudio_asd.scene.foreign.paint import Paint

#: Halvings of the interval in which the size of a cell is sought.
_HALVINGS = 12


def clustered(
    vertices: np.ndarray, faces: np.ndarray, cell: float, *values: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The vertices of each cube of side ``cell`` made one, at their mean place; faces that lose a
    corner are gone.

    Args:
        values: (V, C) each: what else vertices have, of which the mean is taken, too.

    Returns:
        Vertices, faces, and each of ``values``.
    """
    cubes = np.floor(vertices / cell).astype(np.int64)
    _, cluster, count = np.unique(cubes, axis=0, return_inverse=True, return_counts=True)
    cluster = cluster.reshape(-1)

    def mean(rows: np.ndarray) -> np.ndarray:
        columns = [np.bincount(cluster, column, len(count)) for column in rows.T.astype(float)]
        return np.stack(columns, 1) / count[:, None]

    corners = cluster[faces]
    whole = (corners != np.roll(corners, 1, axis=1)).all(1)
    return (mean(vertices), corners[whole], *(mean(rows) for rows in values))


def thinned(mesh: ForeignMesh, most: int) -> ForeignMesh:
    """``mesh`` with at most ``most`` faces, about as many as that allows; its colours are those of
    its vertices.

    Raises:
        UserError: Fewer than four faces are wanted, or nothing would be left.
    """
    if most < 4:
        raise UserError(f"--decimate {most}: a mesh has at least 4 faces.")
    places = mesh.vertices - mesh.centre
    extras = (mesh.normals, _vertex_colors(mesh))
    low, high = 0.0, 2 * mesh.reach
    best = None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = clustered(places, mesh.faces, middle, *extras)
        if len(found[1]) <= most:
            high = middle
            best = found if len(found[1]) else best
        else:
            low = middle
    if best is None:
        raise UserError(f"--decimate {most} leaves no faces; ask for more.")
    vertices, faces, normals, colors = best
    return replace(
        mesh,
        vertices=vertices + mesh.centre,
        faces=faces,
        normals=unit(normals),
        part=np.zeros(len(faces), dtype=int),
        first=np.zeros(1, dtype=int),
        offset=np.zeros(1, dtype=int),
        paints=[Paint(np.ones(3), vertices=colors)],
        uv=None,
    )


def _vertex_colors(mesh: ForeignMesh) -> np.ndarray:
    """(V, 3): at each vertex the colour of a face that has it."""
    colors = np.zeros((len(mesh.vertices), 3))
    every = np.arange(len(mesh.faces))
    for corner in range(3):
        weights = np.tile(np.eye(3)[corner], (len(every), 1))
        colors[mesh.faces[:, corner]] = mesh.colors(every, weights)
    return colors
