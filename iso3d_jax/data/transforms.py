"""transforms.json: pictures with cameras, as nerfstudio and NeRF's synthetic scenes have them.

A camera is OpenGL's, +z of the world is up. A file may give one lens for all frames or one a frame,
by focal lengths in pixels (`fl_x`) or by the angle over the width (`camera_angle_x`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import atomic_path
from iso3d_jax.core.json_files import need, read_object

FILE = "transforms.json"
FILES = (FILE, "transforms_train.json")
PINHOLES = (
    "OPENCV",
    "PINHOLE",
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
)  # and what bends a little
DISTORTION = ("k1", "k2", "p1", "p2", "k3")


class Lens(NamedTuple):
    """How a camera makes a picture, whatever the picture's size.

    Attributes:
      focal: of the width, as a share of it.
      focal_y: of the height, in units of `focal` in pixels; 1 where pixels are square.
      centre: where the axis meets the picture, as shares of width and height.
      distortion: k1, k2, p1, p2, k3 as OpenCV has them.
      size: width and height in pixels, where the file says them.
    """

    focal: float
    focal_y: float = 1.0
    centre: tuple[float, float] = (0.5, 0.5)
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    size: tuple[int, int] | None = None

    @property
    def fov_deg(self) -> float:
        """Over the width, of a lens that does not distort."""
        return math.degrees(2 * math.atan(0.5 / self.focal))


class Frames(NamedTuple):
    """What a file names."""

    pictures: list[Path]
    c2w: Float[np.ndarray, "N 4 4"]
    lenses: list[Lens]


def find(folder: str | Path) -> Path | None:
    """The file of a folder, or None where it has none."""
    files = [Path(folder) / name for name in FILES]
    return next((file for file in files if file.is_file()), None)


def read(file: Path) -> Frames:
    """The pictures and cameras of a file; there may be none.

    Raises:
      UserError: the file is damaged, or has a lens that is no pinhole with OpenCV's distortion.
    """
    content = read_object(file)
    pictures, poses, lenses = [], [], []
    for number, frame in enumerate(need(content, "frames", list, file)):
        if not isinstance(frame, dict):
            raise UserError(f"{file} is damaged: frame {number} is no object")
        where = f"frame {number} of {file}"
        path = file.parent / need(frame, "file_path", str, where)
        pictures.append(path if path.suffix else path.with_suffix(".png"))
        poses.append(read_matrix(frame.get("transform_matrix"), where, 4))
        lenses.append(_read_lens(content | frame, where))
    return Frames(pictures, np.stack(poses) if poses else np.zeros((0, 4, 4)), lenses)


def read_matrix(value: Any, where: str, rows: int) -> Float[np.ndarray, "4 4"]:
    """A pose that somebody wrote as [4, 4], or as [rows, 4].

    Raises:
      UserError: it is none.
    """
    try:
        matrix = np.array(value, np.float64)
    except (ValueError, TypeError):
        matrix = np.zeros(0)
    if matrix.shape not in ((rows, 4), (4, 4)) or not np.isfinite(matrix).all():
        raise UserError(f"{where} has a camera that is no matrix of {rows} times 4 numbers")
    return np.concatenate([matrix[:3], [[0.0, 0.0, 0.0, 1.0]]])


def _read_lens(camera: dict[str, Any], where: str) -> Lens:
    model = need(camera, "camera_model", str, where, default=PINHOLES[0])
    if model not in PINHOLES or need(camera, "k4", float, where, default=0.0):
        raise UserError(
            f"{where} has a lens '{shorten(model)}' that is not read: undistort the pictures first"
        )
    size = None
    if "w" in camera or "h" in camera:
        size = tuple(need(camera, side, int, where, least=1) for side in ("w", "h"))
    if "fl_x" in camera:
        width, height = size or (need(camera, "w", int, where, least=1), 1)
        focal = need(camera, "fl_x", float, where, least=1e-6)
        focal_y = need(camera, "fl_y", float, where, default=focal, least=1e-6) / focal
        share = focal / width
    else:
        angle = need(camera, "camera_angle_x", float, where, least=1e-3, most=3.1)
        share, focal_y = 0.5 / math.tan(angle / 2), 1.0
    centre = (0.5, 0.5)
    if size:
        centre = tuple(
            need(camera, key, float, where, default=side / 2) / side
            for key, side in zip(("cx", "cy"), size, strict=True)
        )
    bent = tuple(need(camera, key, float, where, default=0.0) for key in DISTORTION)
    return Lens(share, focal_y, centre, bent, size)  # pyright: ignore[reportArgumentType]


def write(
    file: Path,
    pictures: Sequence[str],
    c2w: Float[np.ndarray, "N 4 4"],
    fov_deg: Float[np.ndarray, " N"],
    side: int,
) -> Path:
    """Writes the file of square pictures without distortion.

    Args:
      pictures: their paths, as seen from the file's folder.
      side: of them, in pixels.
    """
    frames = []
    for name, pose, angle in zip(pictures, c2w, fov_deg, strict=True):
        focal = side / 2 / math.tan(math.radians(angle) / 2)
        frames.append({
            "file_path": name, "fl_x": focal, "fl_y": focal,
            "cx": side / 2, "cy": side / 2, "w": side, "h": side,
            "transform_matrix": np.asarray(pose, np.float64).tolist(),
        })  # fmt: skip
    content: dict[str, Any] = {"camera_model": "OPENCV", "frames": frames}
    if len(fov_deg) and np.ptp(fov_deg) == 0:  # what NeRF's own code reads
        content["camera_angle_x"] = math.radians(fov_deg[0])
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    return file
