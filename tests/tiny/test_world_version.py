"""The world's name changes with its looks: figures of two worlds are never mixed."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

from threestudio_asd.tiny import dataset
from threestudio_asd.tiny.scenes import COLORS, OBJECTS, WORLD_VERSION

FILE = Path(__file__).with_name("world.json")


def looks() -> dict[str, list[float]]:
    """4 x 4 thumbnails, in units of 1/255, of random views of every object, mixed with normals."""
    shades = [*COLORS] * 2
    pairs = [(name, shades[i]) for i, name in enumerate(OBJECTS)]
    renders = dataset.build(2 * len(pairs), 5, pairs, 0.3)
    small = F.avg_pool2d(renders.images.float(), 16)
    return {
        name: small[renders.objects == i].mean(0).flatten().round(decimals=1).tolist()
        for i, name in enumerate(OBJECTS)
    }


def test_a_world_that_looks_different_has_another_name():
    known = json.loads(FILE.read_text())
    found = looks()
    same = found.keys() == known["looks"].keys() and all(
        # A processor may round another pixel to the next level.
        torch.allclose(torch.tensor(found[k]), torch.tensor(known["looks"][k]), atol=0.3)
        for k in found
    )
    assert same == (known["version"] == WORLD_VERSION), (
        "Scenes, shading or cameras have changed: give WORLD_VERSION another value and write "
        f"{FILE.name} again (python tests/tiny/test_world_version.py)."
    )


if __name__ == "__main__":
    FILE.write_text(json.dumps({"version": WORLD_VERSION, "looks": looks()}) + "\n")
