"""A folder of pictures as a task: nobody knows the true views, some scores need none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.pictures import find_pictures, load_picture, prepare_picture
from iso3d_jax.evaluation.views import ViewTask

ELEVATION_DEG = 15.0


def make_task(folder: str | Path, resolution: int, picture: str) -> ViewTask:
    """Four views of each picture at azimuths 0, 90, 180 and 270, 15 degrees above.

    Args:
      resolution, picture: of the model.

    Raises:
      UserError: no such folder, no picture in it, or one that cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--images {folder}: there is no such folder")
    files = find_pictures(folder)
    pictures = [prepare_picture(load_picture(str(f)), resolution, picture) for f in files]
    shape = (len(files), 4)
    return ViewTask(
        names=[f.stem for f in files],
        pictures=np.asarray(pictures, np.float32),
        azimuth_deg=np.broadcast_to(np.arange(4) * 90.0, shape).astype(np.float32),
        elevation_deg=np.full(shape, ELEVATION_DEG, np.float32),
        truth=None,
        protocol="a folder of pictures without true views; drawn at azimuths 0, 90, 180, 270 and "
        "15 degrees of elevation",
    )
