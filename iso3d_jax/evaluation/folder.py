"""A folder of pictures as a task: nobody knows the true views, some scores need none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import readable_name
from iso3d_jax.data.picture_folders import find_pictures, load_all, name_pictures
from iso3d_jax.data.pictures import load_picture, prepare_picture
from iso3d_jax.evaluation.views import ViewTask
from iso3d_jax.geometry.cameras import FOV_DEG, SCALE, distance_of

ELEVATION_DEG = 15.0


def make_task(
    folder: str | Path, resolution: int, picture: str, **cutting
) -> tuple[ViewTask, dict[str, str]]:
    """Four views of each picture at azimuths 0, 90, 180 and 270, 15 degrees above.

    Args:
      resolution, picture: of the model.
      cutting: options of `load_picture`.

    Returns:
      The task, and what is wrong with the pictures that are left out, by name.

    Raises:
      UserError: no such folder, or no picture in it that can be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--images {folder}: there is no such folder")
    files = find_pictures(folder)
    loaded, failed = load_all(
        dict(zip(name_pictures(files), files, strict=True)),
        lambda path: load_picture(path, **cutting),
    )
    pictures = [prepare_picture(rgba, resolution, picture) for rgba in loaded.values()]
    shape = (len(loaded), 4)
    task = ViewTask(
        names=[readable_name(name) for name in loaded],
        pictures=np.asarray(pictures, np.float32),
        azimuth_deg=np.broadcast_to(np.arange(4) * 90.0, shape).astype(np.float32),
        elevation_deg=np.full(shape, ELEVATION_DEG, np.float32),
        truth=None,
        fov_deg=np.full(shape, FOV_DEG, np.float32),
        distance=np.full(shape, distance_of(FOV_DEG, SCALE), np.float32),
        protocol="a folder of pictures without true views; drawn at azimuths 0, 90, 180, 270 and "
        f"15 degrees of elevation, with a field of view of {FOV_DEG:g} degrees",
    )
    return task, {readable_name(name): reason for name, reason in failed.items()}
