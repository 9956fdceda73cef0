"""Files of validation, test and export: threestudio's ``save_*`` methods."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import torch
from PIL import Image

from threestudio_asd.errors import UserError
from threestudio_asd.files import written_in_place
from threestudio_asd.scene import images
from threestudio_asd.scene.objfile import mtl_text, obj_text, word
from threestudio_asd.stop import held
from threestudio_asd.studio.checkpoint.store import save_atomically
from threestudio_asd.studio.systems.video import write_video

_MAP_FILES = {
    "map_Kd": "texture_kd",
    "map_Ks": "texture_ks",
    "map_Bump": "texture_nrm",
    "map_Pm": "texture_metallic",
    "map_Pr": "texture_roughness",
}


class SaverMixin:
    """Files below the save folder. Each method returns the path (or paths) it wrote.

    ``name`` and ``step`` of threestudio's methods address a web logger; the bundled host has
    none and ignores them.
    """

    _save_dir: str | None = None

    def set_save_dir(self, save_dir: str | os.PathLike) -> None:
        self._save_dir = os.fspath(save_dir)

    def get_save_dir(self) -> str:
        if self._save_dir is None:
            raise UserError("nowhere to save: call set_save_dir(folder) first.")
        return self._save_dir

    def get_save_path(self, filename: str) -> str:
        """Absolute or relative path of ``filename`` in the save folder; its folder exists."""
        path = os.path.join(self.get_save_dir(), filename)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def convert_data(self, data: Any) -> Any:
        """Tensors, also inside lists and dicts, as numpy arrays."""
        if data is None or isinstance(data, np.ndarray | int | float | str):
            return data
        if isinstance(data, torch.Tensor):
            data = data.detach().cpu()
            return (data.float() if data.dtype == torch.bfloat16 else data).numpy()
        if isinstance(data, list | tuple):
            return [self.convert_data(item) for item in data]
        if isinstance(data, dict):
            return {key: self.convert_data(item) for key, item in data.items()}
        raise TypeError(f"cannot save a {type(data).__name__}: use tensors, arrays, lists, dicts")

    def save_rgb_image(
        self,
        filename: str,
        img: Any,
        data_format: str = "HWC",
        data_range: Any = (0, 1),
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        """An RGB image, see :func:`threestudio_asd.scene.images.rgb_image`."""
        return self._write(
            filename, images.rgb_image(self.convert_data(img), data_format, data_range)
        )

    def save_uv_image(
        self,
        filename: str,
        img: Any,
        data_format: str = "HWC",
        data_range: Any = (0, 1),
        cmap: str = "checkerboard",
    ) -> str:
        """Texture coordinates, see :func:`threestudio_asd.scene.images.uv_image`."""
        image = images.uv_image(self.convert_data(img), data_format, data_range, cmap)
        return self._write(filename, image)

    def save_grayscale_image(
        self,
        filename: str,
        img: Any,
        data_range: Any = None,
        cmap: str | None = "jet",
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        """One channel, see :func:`threestudio_asd.scene.images.grayscale_image`."""
        return self._write(
            filename, images.grayscale_image(self.convert_data(img), data_range, cmap)
        )

    def save_image_grid(
        self,
        filename: str,
        imgs: Sequence[Any],
        align: Any = "max",
        name: str | None = None,
        step: int | None = None,
        texts: Sequence[Any] | None = None,
    ) -> str:
        """Pictures side by side, see :func:`threestudio_asd.scene.images.image_grid`."""
        rows = self._converted(imgs)
        grid = images.image_grid(rows, align)
        return self._write(filename, grid if texts is None else images.write_texts(grid, texts))

    def save_image(self, filename: str, img: Any) -> str:
        """A uint8 or uint16 image as it is, (H, W) or (H, W, 3 or 4)."""
        img = self.convert_data(img)
        if img.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"save_image takes uint8 or uint16 values, not {img.dtype}")
        path = self.get_save_path(filename)
        with held(), written_in_place(path):
            imageio.imwrite(path, img)
        return path

    def save_data(self, filename: str, data: Any) -> str:
        """Arrays as .npz (a dict) or .npy."""
        data = self.convert_data(data)
        suffix, write = (".npz", np.savez) if isinstance(data, dict) else (".npy", np.save)
        path = self.get_save_path(filename if filename.endswith(suffix) else filename + suffix)
        with held(), written_in_place(path):
            write(path, **data) if isinstance(data, dict) else write(path, data)
        return path

    def save_state_dict(self, filename: str, data: Any) -> str:
        """``torch.save``, written whole or not at all."""
        path = self.get_save_path(filename)
        save_atomically(data, path)
        return path

    def save_img_sequence(
        self,
        filename: str,
        img_dir: str,
        matcher: str,
        save_format: str = "mp4",
        fps: int = 30,
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        """The pictures of a folder as a video.

        Args:
            img_dir: below the save folder.
            matcher: regular expression for file names; its first group is the frame number.
            save_format: "mp4" or "gif".
        """
        if save_format not in ("mp4", "gif"):
            raise UserError(f'save_format is "mp4" or "gif", not "{save_format}".')
        folder = Path(self.get_save_dir()) / img_dir
        matches = [(re.search(matcher, f.name), f) for f in sorted(folder.glob("*"))]
        frames = sorted((int(m.group(1)), file) for m, file in matches if m)
        if not frames:
            raise UserError(f"{folder} has no picture whose name matches {matcher}.")
        if not filename.endswith(save_format):
            filename += f".{save_format}"
        path = self.get_save_path(filename)
        return write_video(path, [imageio.imread(f)[..., :3] for _, f in frames], fps)

    def save_video(self, filename: str, frames: Any, fps: int = 24) -> str:
        """Frames (T, H, W, 3) in [0, 1] as MP4 or GIF, as the suffix says."""
        pictures = [images.rgb_image(f, "HWC", (0, 1)) for f in self.convert_data(frames)]
        return write_video(self.get_save_path(filename), pictures, fps)

    def save_mesh(
        self,
        filename: str,
        v_pos: Any = None,
        t_pos_idx: Any = None,
        v_tex: Any = None,
        t_tex_idx: Any = None,
        mesh: Any = None,
        save_normal: bool = False,
        texture: Any = None,
    ) -> str:
        """A mesh in the format of the suffix: positions and triangles (threestudio's arguments),
        or a whole ``mesh`` with its colours or, in a GLB, a (H, W, 3) ``texture``."""
        from threestudio_asd.scene.formats import write_mesh
        from threestudio_asd.scene.mesh import Mesh

        if mesh is None:
            mesh = Mesh(*(torch.as_tensor(self.convert_data(x)) for x in (v_pos, t_pos_idx)))
        path = self.get_save_path(filename)
        write_mesh(path, mesh, save_normal, texture)
        return path

    def save_obj(
        self,
        filename: str,
        mesh: Any,
        save_mat: bool = False,
        save_normal: bool = False,
        save_uv: bool = False,
        save_vertex_color: bool = False,
        map_Kd: Any = None,
        map_Ks: Any = None,
        map_Bump: Any = None,
        map_Pm: Any = None,
        map_Pr: Any = None,
        map_format: str = "jpg",
    ) -> list[str]:
        """``mesh`` as OBJ; with ``save_mat`` also an MTL file and its (H, W, C) texture maps."""
        stem = filename.removesuffix(".obj")
        maps = {
            "map_Kd": map_Kd,
            "map_Ks": map_Ks,
            "map_Bump": map_Bump,
            "map_Pm": map_Pm,
            "map_Pr": map_Pr,
        }
        paths = self._save_material(stem, maps, map_format) if save_mat else []
        text = obj_text(
            self.convert_data(mesh.v_pos),
            self.convert_data(mesh.t_pos_idx),
            v_nrm=self.convert_data(mesh.v_nrm) if save_normal else None,
            v_tex=self.convert_data(mesh.v_tex) if save_uv else None,
            t_tex_idx=self.convert_data(mesh.t_tex_idx) if save_uv else None,
            v_rgb=self.convert_data(mesh.v_rgb) if save_vertex_color else None,
            matname="default" if save_mat else None,
            mtllib=os.path.basename(_mtl_name(stem)) if save_mat else None,
        )
        return [*paths, self._write_text(f"{stem}.obj", text)]

    def save_file(self, filename: str, src_path: str | os.PathLike) -> str:
        """A copy of ``src_path``."""
        path = self.get_save_path(filename)
        with held(), written_in_place(path):
            return shutil.copyfile(src_path, path)

    def save_json(self, filename: str, payload: Any) -> str:
        return self._write_text(filename, json.dumps(payload))

    def _save_material(self, stem: str, maps: dict[str, Any], map_format: str) -> list[str]:
        given = {statement: image for statement, image in maps.items() if image is not None}
        files = {statement: f"{_MAP_FILES[statement]}.{map_format}" for statement in given}
        paths = [self._write_text(_mtl_name(stem), mtl_text("default", files))]
        for statement, image in given.items():
            path = os.path.join(os.path.dirname(stem), files[statement])
            image = self.convert_data(image)
            if image.shape[-1] == 1:
                paths.append(self.save_grayscale_image(path, image[..., 0], (0, 1), cmap=None))
            else:
                paths.append(self.save_rgb_image(path, image))
        return paths

    def _converted(self, imgs: Sequence[Any]) -> list[Any]:
        return [
            {**item, "img": self.convert_data(item["img"])}
            if isinstance(item, dict)
            else self._converted(item)
            for item in imgs
        ]

    def _write(self, filename: str, image: np.ndarray) -> str:
        path = self.get_save_path(filename)
        with held(), written_in_place(path):
            # Of JPEG; other formats take no notice.
            Image.fromarray(image).save(path, quality=95, subsampling=0)
        return path

    def _write_text(self, filename: str, text: str) -> str:
        path = self.get_save_path(filename)
        with held(), written_in_place(path):
            Path(path).write_text(text)
        return path


def _mtl_name(stem: str) -> str:
    """The file of materials that ``stem.obj`` refers to."""
    folder, name = os.path.split(stem)
    return os.path.join(folder, f"{word(name)}.mtl")
