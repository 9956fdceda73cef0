"""GLB, OBJ and PLY files as :class:`ForeignMesh`; what is wrong with one is told in a line."""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from threestudio_asd import homes
from threestudio_asd.errors import UserError
from threestudio_asd.scene.foreign.clusters import thinned
from threestudio_asd.scene.foreign.mesh import TO_SCENE, ForeignMesh, unfit_uv, unit
from threestudio_asd.scene.foreign.paint import Paint, from_top, paint_of
from threestudio_asd.scene.objfile import SCENE_AXES

SUFFIXES = (".glb", ".obj", ".ply")
#: Faces above which charts and pictures take too long to be begun unasked.
MOST_FACES = 500_000


def read_mesh(path: str | Path, up: str | None = None, decimate: int | None = None) -> ForeignMesh:
    """All meshes of a file as one, at their places.

    Args:
        up: The axis that points up, "y" or "z"; by default y, but z in OBJ and PLY files of this
            project's.
        decimate: Make it a mesh of at most so many faces, by clustering vertices.

    Raises:
        UserError: No such file, another format, not a mesh, no faces, too many of them, vertices
            that are not finite or all in one place, or a texture file that is missing.
    """
    path = homes.expanded(path)
    if not path.is_file():
        raise UserError(f"There is no mesh {path}: give the path of a GLB, OBJ or PLY file.")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no GLB, OBJ or PLY file: convert it to one of these.")
    if up is not None and up not in TO_SCENE:
        raise UserError(f"The axis that points up is {up}; use y or z.")
    _require_textures(path)
    parts = list(_parts(path))
    if not sum(len(part.faces) for part in parts):
        raise UserError(f"{path} has no faces: it holds points or lines alone, or nothing.")
    mesh = _joined(path, parts, up or _up(path))
    _check(path, mesh)
    count = len(mesh.faces)
    if decimate is not None and count > decimate:
        mesh = thinned(mesh, decimate)
        return mesh.noted(f"{count:,} faces became {len(mesh.faces):,}.")
    if count > MOST_FACES:
        raise UserError(
            f"{path} has {count:,} faces, and more than {MOST_FACES:,} take too long: give a "
            "smaller mesh, or --decimate 100000, which changes its shape."
        )
    return _with_uv(mesh, parts)


def _parts(path: Path) -> Iterator[Any]:
    """The file's meshes, moved to their places; points and lines are left out."""
    import trimesh

    options = {"maintain_order": True} if path.suffix.lower() == ".obj" else {}
    try:
        scene = trimesh.load_scene(path, process=False, **options)
        found = [_placed(scene, node) for node in scene.graph.nodes_geometry]
    except Exception as error:  # each format's reader raises its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as a mesh: {reason}.") from error
    for part in found:
        if isinstance(part, trimesh.Trimesh) and len(part.faces):
            if part.faces.min() < 0 or part.faces.max() >= len(part.vertices):
                raise UserError(f"{path} is damaged: faces name vertices that are not there.")
            yield part


def _placed(scene: Any, node: str) -> Any:
    """The node's geometry, moved to its place."""
    transform, name = scene.graph[node]
    original = scene.geometry[name]
    part = original.copy()
    colors = getattr(original.visual, "vertex_attributes", {}).get("color")
    if colors is not None:  # which trimesh's copies of textured meshes lack
        part.visual.vertex_attributes["color"] = colors
    if not hasattr(part, "to_3D"):  # a drawing, which has no faces
        part.apply_transform(transform)
    return part


def _joined(path: Path, parts: list[Any], up: str) -> ForeignMesh:
    sizes, counts = ([len(p.vertices) for p in parts], [len(p.faces) for p in parts])
    offset, first = (np.cumsum([0, *n])[:-1] for n in (sizes, counts))
    paints = [paint_of(part, linear=path.suffix.lower() == ".glb") for part in parts]
    mesh = ForeignMesh(
        vertices=np.concatenate([np.asarray(p.vertices, dtype=float) for p in parts]),
        faces=np.concatenate([np.asarray(p.faces) + o for p, o in zip(parts, offset, strict=True)]),
        normals=unit(np.concatenate([np.asarray(p.vertex_normals, dtype=float) for p in parts])),
        up=up,
        part=np.repeat(np.arange(len(parts)), counts),
        first=first,
        offset=offset,
        paints=paints,
    )
    if len(parts) > 1:
        mesh = mesh.noted(f"{len(parts)} meshes or materials become one.")
    if all(_is_grey(paint) for paint in paints):
        mesh = mesh.noted("It has no colours: it begins grey.")
    return mesh


def _is_grey(paint: Paint) -> bool:
    return paint.is_plain and not paint.linear and len({*paint.base.tolist()}) == 1


def _check(path: Path, mesh: ForeignMesh) -> None:
    """Raises UserError if the mesh has no place or size."""
    broken = int((~np.isfinite(mesh.vertices)).any(1).sum())
    if broken:
        raise UserError(f"{path} is damaged: {broken} of its vertices are not finite.")
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    if mesh.reach == 0 or area == 0:
        raise UserError(f"{path} has no size: all of its faces are without area.")


def _with_uv(mesh: ForeignMesh, parts: list[Any]) -> ForeignMesh:
    """With the file's texture coordinates, if they are fit to be kept, and what else there is to
    tell."""
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    shared = np.unique(edges, axis=0, return_counts=True)[1]
    if many := int((shared > 2).sum()):
        mesh = mesh.noted(
            f"It is not a manifold ({many} edges have more than two faces), which colours do not "
            "mind."
        )
    found = [getattr(part.visual, "uv", None) for part in parts]
    fit = [
        uv is not None and len(uv) == len(p.vertices) for uv, p in zip(found, parts, strict=True)
    ]
    if not all(fit):
        return mesh.noted("It has no texture coordinates: they are made.")
    uv = np.concatenate([from_top(each) for each in found])
    reason = unfit_uv(uv, mesh.faces)
    if reason is not None:
        return mesh.noted(f"Its texture coordinates {reason}: new ones are made.")
    return replace(mesh, uv=uv.clip(0, 1))


def _up(path: Path) -> str:
    """glTF prescribes y; other files mostly have it, and this project's say that they have not."""
    if path.suffix.lower() == ".glb":
        return "y"
    with path.open("rb") as stream:
        return "z" if SCENE_AXES.encode() in stream.read(2048) else "y"


def _require_textures(path: Path) -> None:
    """Raises UserError if the file names another that is not beside it."""
    for user, name in _files_named(path):
        if not (path.parent / name).is_file():
            raise UserError(
                f"{user} names the file '{name}', which is not beside it: put it there, or take "
                "the line out."
            )


def _files_named(path: Path) -> Iterator[tuple[str, str]]:
    """(the file that names it, its name) of materials and textures outside of ``path``."""
    suffix = path.suffix.lower()
    if suffix == ".glb":
        yield from ((path.name, uri) for uri in _image_files(path))
        return
    text = path.read_bytes() if suffix == ".obj" else path.read_bytes()[:4096]
    said = text.decode("utf-8", "replace")
    pattern = r"^mtllib[ \t]+(.+?)\s*$" if suffix == ".obj" else r"^comment TextureFile\s+(.+?)\s*$"
    for name in re.findall(pattern, said, re.MULTILINE):
        yield path.name, name
        if suffix == ".obj" and (path.parent / name).is_file():
            materials = (path.parent / name).read_text("utf-8", "replace")
            for texture in re.findall(r"^\s*map_Kd\s+(.+?)\s*$", materials, re.M | re.I):
                yield name, texture.split()[-1] if texture.startswith("-") else texture


def _image_files(path: Path) -> list[str]:
    """The pictures outside of a GLB."""
    data = path.read_bytes()
    if len(data) < 20 or data[:4] != b"glTF":
        raise UserError(f"{path} cannot be read as a mesh: it does not begin as a GLB does.")
    try:
        tree = json.loads(data[20 : 20 + struct.unpack("<I", data[12:16])[0]])
        required = [name for name in tree.get("extensionsRequired", []) if "compression" in name]
        images = [image.get("uri", "data:") for image in tree.get("images", [])]
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: its table of contents cannot be read.") from error
    if required:
        raise UserError(f"{path} is compressed ({', '.join(required)}): save it without.")
    return [uri for uri in images if not uri.startswith("data:")]
