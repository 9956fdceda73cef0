"""Facts about what the ``save_*`` methods write: files, pixels, the lines of a mesh."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v2 as imageio
import numpy as np
import torch
from contract.definitions import outcome
from contract.hosts import Host
from torch import Tensor


def pictures(host: Host, folder: Path) -> dict[str, Any]:
    """Pixel values, and which files the other methods make; ``folder`` is scratch space."""
    saver = host.saver()
    saver.set_save_dir(str(folder / "save"))
    pixels = {name: outcome(lambda a=args: _pixels(saver, *a)) for name, args in _CASES.items()}
    return {"pixels": pixels, "files": _files(saver, folder)}


def _ramp(*shape: int) -> Tensor:
    return torch.linspace(0, 1, int(np.prod(shape))).reshape(*shape)


def _cell(kind: str, img: Any, **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "img": img, "kwargs": kwargs}


_RGB, _GRAY = _ramp(2, 2, 3), _ramp(2, 3)
_CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "rgb": ("save_rgb_image", _RGB, {}),
    "rgb-chw": ("save_rgb_image", _ramp(3, 1, 2), {"data_format": "CHW"}),
    "rgb-range": ("save_rgb_image", 2 * _RGB - 1, {"data_range": (-1, 1)}),
    "rgb-clip": ("save_rgb_image", 3 * _RGB - 1, {}),
    "rgb-uint8": ("save_rgb_image", (255 * _RGB).to(torch.uint8), {}),
    "rgb-two-channels": ("save_rgb_image", _ramp(1, 2, 2), {}),
    "rgb-seven-channels": ("save_rgb_image", _ramp(1, 2, 7), {}),
    "gray-default": ("save_grayscale_image", _GRAY, {}),
    "gray-stretched": ("save_grayscale_image", 4 * _GRAY + 2, {"cmap": None}),
    "gray-plain": ("save_grayscale_image", _GRAY, {"data_range": (0, 1), "cmap": None}),
    "gray-clip": ("save_grayscale_image", _GRAY, {"data_range": (0.3, 0.7), "cmap": None}),
    "gray-spectral": ("save_grayscale_image", _GRAY, {"data_range": (0, 1), "cmap": "spectral"}),
    "gray-nan": ("save_grayscale_image", _GRAY / (_GRAY > 0), {"data_range": (0, 1), "cmap": None}),
    "uv": ("save_uv_image", _ramp(2, 2, 2), {}),
    "uv-color": ("save_uv_image", _ramp(2, 2, 2), {"cmap": "color"}),
    "grid": (
        "save_image_grid",
        [_cell("rgb", _RGB), _cell("grayscale", _ramp(2, 2), data_range=(0, 1), cmap=None)],
        {},
    ),
    "grid-rows": ("save_image_grid", [[_cell("rgb", _RGB)], [_cell("rgb", 1 - _RGB)]], {}),
    "grid-max": ("save_image_grid", [_cell("rgb", _RGB), _cell("rgb", _ramp(4, 4, 3))], {}),
    "grid-min": (
        "save_image_grid",
        [_cell("rgb", _RGB), _cell("rgb", _ramp(4, 4, 3))],
        {"align": "min"},
    ),
    "grid-number": ("save_image_grid", [_cell("rgb", _RGB)], {"align": 3}),
    "image-unknown-type": ("save_image_grid", [_cell("depth", _RGB)], {}),
}


def _pixels(saver: Any, method: str, image: Any, kwargs: dict[str, Any]) -> Any:
    """As stored: (H, W, 3) bytes, in a list."""
    path = getattr(saver, method)("picture.png", image, **kwargs)
    return imageio.imread(path).tolist()


def _files(saver: Any, folder: Path) -> dict[str, Any]:
    saver.set_save_dir(str(folder / "files"))
    for i in range(2):
        saver.save_rgb_image(f"frames/{i}.png", _ramp(16, 16, 3))
    triangle = SimpleNamespace(
        v_pos=_ramp(3, 3),
        t_pos_idx=torch.tensor([[0, 1, 2]]),
        v_nrm=_ramp(3, 3),
        v_tex=_ramp(3, 2),
        t_tex_idx=torch.tensor([[0, 1, 2]]),
        v_rgb=_ramp(3, 3),
    )
    everything = {
        "save_mat": True,
        "save_normal": True,
        "save_uv": True,
        "save_vertex_color": True,
        "map_Kd": _ramp(4, 4, 3),
    }
    (folder / "source.txt").write_text("text")
    written = {
        "sequence-mp4": saver.save_img_sequence("video", "frames", r"(\d+)\.png"),
        "sequence-gif": saver.save_img_sequence("video", "frames", r"(\d+)\.png", "gif", 2),
        "data-array": saver.save_data("array", _ramp(2)),
        "data-dict": saver.save_data("dict", {"a": _ramp(2)}),
        "state-dict": saver.save_state_dict("state.pth", {"a": _ramp(2)}),
        "json": saver.save_json("numbers.json", {"a": 1}),
        "file": saver.save_file("copy.txt", str(folder / "source.txt")),
        "image": saver.save_image("image.png", (255 * _RGB).to(torch.uint8)),
        "obj-plain": saver.save_obj("plain", triangle),
        "obj-material": saver.save_obj("mesh.obj", triangle, **everything),
        "obj-colors": saver.save_obj("colors.obj", triangle, save_vertex_color=True),
    }
    root = folder / "files"
    return {
        "returned": {name: _relative(paths, root) for name, paths in written.items()},
        "in-folder": sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()),
        "lines": {
            name: _by_keyword((root / name).read_text())
            for name in ("plain.obj", "mesh.obj", "colors.obj", "mesh.mtl")
        },
    }


def _relative(paths: Any, root: Path) -> Any:
    if isinstance(paths, list):
        return [_relative(path, root) for path in paths]
    return str(Path(paths).relative_to(root))


def _by_keyword(text: str) -> dict[str, list[Any]]:
    """First word of the lines -> their further words, numbers as numbers."""
    lines: dict[str, list[Any]] = {}
    for keyword, *words in (line.split() for line in text.splitlines()):
        values = [float(w) if w.replace(".", "", 1).isdigit() else w for w in words]
        lines.setdefault(keyword, []).append(values)
    return lines
