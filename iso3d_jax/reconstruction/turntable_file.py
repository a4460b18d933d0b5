"""The file of a turntable: MP4 by ffmpeg, or animated WebP or GIF by Pillow where there is none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path
from iso3d_jax.reconstruction.pictures import Turntable

FORMATS = ("mp4", "webp", "gif")


def has_ffmpeg() -> bool:
    """Whether videos can be written: by the ffmpeg of imageio-ffmpeg, or the system's."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return False
    return True


def place(folder: Path) -> Path:
    """Where a run's turntable goes: turntable.mp4, or .webp where there is no ffmpeg."""
    return folder / ("turntable.mp4" if has_ffmpeg() else "turntable.webp")


def check(path: Path) -> str:
    """The format that a path names.

    Raises:
      UserError: none of ours, or a video without ffmpeg.
    """
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        raise UserError(f"a turntable ends in .mp4, .webp or .gif, not in {path.name!r}")
    if suffix == "mp4" and not has_ffmpeg():
        raise UserError(
            f"{path.name} needs ffmpeg, which is not here: pip install imageio-ffmpeg, or name a "
            ".webp or .gif file"
        )
    return suffix


def write(path: Path, turn: Turntable, seconds: float) -> None:
    """Writes frames side by side, colour, normals and opacity, that play for ever.

    Args:
      path: .mp4, .webp or .gif.
      seconds: of one round.

    Raises:
      UserError: see `check`.
    """
    suffix, count = check(path), len(turn.rgb)
    if suffix == "mp4":
        _write_video(path, _side_by_side(turn), max(1, round(count / seconds)))
        return
    first, *others = (Image.fromarray(frame) for frame in _side_by_side(turn))
    duration = max(20, round(1000 * seconds / count))  # browsers slow down what is faster
    more = {"quality": 90, "method": 4} if suffix == "webp" else {}
    with atomic_path(path) as temporary:
        first.save(
            temporary, suffix.upper(), save_all=True, append_images=others, duration=duration,
            loop=0, **more,
        )  # fmt: skip


def _side_by_side(turn: Turntable) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    for rgb, normal, opacity, *_ in zip(*turn, strict=True):
        yield np.concatenate([rgb, normal, np.repeat(255 - opacity[..., None], 3, -1)], 1)


def _write_video(path: Path, frames: Iterator[np.ndarray], rate: int) -> None:
    import imageio.v2 as imageio

    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # ffmpeg is started at once
        with imageio.get_writer(
            temporary, fps=rate, codec="libx264", quality=8, macro_block_size=2,
            pixelformat="yuv420p", ffmpeg_log_level="error",
        ) as writer:  # fmt: skip
            for frame in frames:
                writer.append_data(frame)  # pyright: ignore[reportAttributeAccessIssue]
