"""Plain 2-D pictures as objects of one view, for the steps that keep what a 2-D base knows.

MVDream trains 30% of its steps on such pictures (LAION), without cameras and without attention
between views. Here a folder of files is encoded with `data.encode --plain`, and `picture_share` of
a training's steps reads it (`training/tasks/batches.py`, branch 0-a).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.images import to_uint8
from iso3d_jax.data.picture_folders import find_pictures
from iso3d_jax.data.pictures import load_picture, prepare_picture


class PlainPictures(Sequence):
    """A folder's pictures, on white and padded to squares, as records of `data.encode`."""

    def __init__(self, folder: str | Path, resolution: int):
        """
        Raises:
          UserError: a folder without pictures.
        """
        self._paths = find_pictures(folder)
        self._resolution = resolution

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """
        Raises:
          ValueError: a file that is no picture, or one of nothing.
        """
        path = self._paths[index]
        try:
            rgba = load_picture(path, remove_background="never")
        except UserError as error:
            raise ValueError(str(error)) from None
        rgb = to_uint8(prepare_picture(rgba, self._resolution, "framed"))
        opaque = np.full_like(rgb[..., :1], 255)
        return {
            "images": np.concatenate([rgb, opaque], -1)[None],
            "azimuth_deg": np.zeros(1, np.float32),
            "elevation_deg": np.zeros(1, np.float32),
            "name": path.name,
        }
