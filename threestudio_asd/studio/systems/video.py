"""Frames as a video file."""

from pathlib import Path

import imageio.v2 as imageio
import numpy as np

from threestudio_asd.files import written_whole


def write_video(path: str, frames: list[np.ndarray], fps: int | float) -> str:
    """Write frames (H, W, 3), 8 bits, as MP4 or GIF, as the suffix says; returns ``path``."""
    # The encoder is another process, which signals to the whole group reach as well.
    with written_whole(path) as partial:
        if path.endswith("mp4"):
            _encode(partial, frames, fps)
        else:
            imageio.mimsave(partial, frames, format=Path(path).suffix.lstrip("."), fps=fps)
    return path


def _encode(path: Path, frames: list[np.ndarray], fps: int | float) -> None:
    """An MP4 at ``path``, whatever its suffix.

    Raises:
        OSError: the file lacks frames.
    """
    from imageio_ffmpeg import count_frames_and_secs

    # H.264 needs even sizes; imageio's default of 16 would rescale small renders.
    options = {"macro_block_size": 2, "output_params": ["-f", "mp4"]}
    imageio.mimsave(path, frames, format="mp4", fps=fps, **options)
    # The encoder's last words, "no space left" too, go to the terminal alone.
    try:
        written = count_frames_and_secs(path)[0]
    except RuntimeError as error:
        raise OSError(f"the video {path} cannot be read: {error}") from error
    if written != len(frames):
        raise OSError(f"the video {path} has {written} of {len(frames)} frames")
