"""GLBs before the Khronos validator: ``npm install --no-save gltf-validator`` brings it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import trimesh

from threestudio_asd.scene.formats import write_mesh
from threestudio_asd.scene.mesh import Mesh

ROOT = Path(__file__).parents[2]
VALIDATE = """
const {validateBytes} = require('gltf-validator'), fs = require('fs');
const check = async file => (await validateBytes(new Uint8Array(fs.readFileSync(file)))).issues;
const files = process.argv.slice(1);
Promise.all(files.map(check)).then(found => console.log(JSON.stringify(found)));
"""


def validator(*files):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    # Resolved from the working directory, its parents and NODE_PATH.
    command = [node, "-e", VALIDATE, *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if "Cannot find module 'gltf-validator'" in done.stderr:
        pytest.skip("npm install --no-save gltf-validator")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ball(subdivisions=2):
    shape = trimesh.creation.icosphere(subdivisions)
    return Mesh(torch.tensor(shape.vertices).float(), torch.tensor(shape.faces))


def colored(mesh):
    colors = torch.rand(len(mesh.v_pos), 3)
    colors[:3] = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.2, -0.1, 0.5]])
    mesh.set_vertex_color(colors)
    return mesh


def faulty():
    """A triangle without area, one that is twice there, a vertex of none."""
    mesh = ball()
    faces = torch.cat([mesh.t_pos_idx, torch.tensor([[0, 0, 1], [0, 1, 2]]), mesh.t_pos_idx[:1]])
    return colored(Mesh(torch.cat([mesh.v_pos, torch.zeros(1, 3)]), faces))


def textured():
    mesh = ball(1)
    n = len(mesh.t_pos_idx)
    mesh._uv = torch.rand(3 * n, 2), torch.arange(3 * n).view(n, 3)  # as unwrap_uv leaves it
    return mesh


MESHES = {
    "plain": (ball, None),
    "colours": (lambda: colored(ball()), None),
    "many colours": (lambda: colored(ball(7)), None),  # more vertices than 16 bits count
    "faulty": (faulty, None),
    "texture": (textured, torch.rand(64, 64, 3)),
    "texture of an odd size": (textured, torch.rand(30, 50, 3)),
}


def test_the_validator_finds_no_error_and_no_warning(tmp_path):
    files = {}
    for name, (make, texture) in MESHES.items():
        for normals in (False, True):
            path = tmp_path / f"{name}, {'with' if normals else 'without'} normals.glb"
            write_mesh(path, make(), normals, texture)
            files[path.stem] = path
    broken = tmp_path / "broken.glb"
    data = files["plain, with normals"].read_bytes()
    broken.write_bytes(data.replace(b'"VEC3"', b'"VEC2"', 1))
    *found, bad = validator(*files.values(), broken)
    for name, issues in zip(files, found, strict=True):
        told = [m for m in issues["messages"] if m["severity"] < 2]
        assert issues["numErrors"] == issues["numWarnings"] == 0, (name, told)
    assert bad["numErrors"] > 0  # the validator does look
