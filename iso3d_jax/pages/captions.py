"""What pages call views: by where their cameras stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from iso3d_jax.data import transforms

SHOWN = 8  # pictures of those that were given


def pick_some(count: int, most: int = SHOWN) -> list[int]:
    """Indices of at most so many of `count`, evenly among all."""
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, most))})


def describe_cameras(c2w: Float[np.ndarray, "N 4 4"]) -> list[str]:
    """Where cameras stand, as seen from the middle of the scene."""
    found = []
    for x, y, z in c2w[:, :3, 3]:
        azimuth = round(float(np.degrees(np.arctan2(y, x)))) % 360
        up = round(float(np.degrees(np.arctan2(z, np.hypot(x, y)))))
        found.append(f"{azimuth}° round, {up}° up")
    return found


def first_cameras(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """c2w [count, 4, 4] and fields of view [count] of a run's first views; None of older runs."""
    if not (folder / transforms.FILE).is_file():
        return None
    frames = transforms.read(folder / transforms.FILE)
    if len(frames.pictures) < count:
        return None
    return frames.c2w[:count], np.array([lens.fov_deg for lens in frames.lenses[:count]])


def label_views(folder: Path, count: int) -> list[str]:
    """Captions of a run's first views; without their cameras those of a ring about the object."""
    cameras = first_cameras(folder, count)
    azimuths = 360.0 * np.arange(count) / count
    if cameras is not None:
        position = cameras[0][:, :3, 3]
        azimuths = np.degrees(np.arctan2(position[:, 1], position[:, 0])) % 360
    rounded = [round(float(a), 1) % 360 for a in azimuths]
    return [f"{a:g}°" if a else "0°: the picture’s side" for a in rounded]
