"""A multi-view data set held in memory as plain arrays, with deterministic draws from it.

Small sets (a few hundred objects at 64x64) fit; a batch is then a pure function of (seed, step),
so a resumed run sees what an unbroken one would have seen. For larger ones see
`training/tasks/batches.py`.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int, UInt8

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.damaged import first_readable
from iso3d_jax.data.orthogonal_sets import CAMERA, SET, check_sets
from iso3d_jax.data.prepared_views import prepare_views

THREADS = 16  # that prepare pictures; Pillow and NumPy let each other run


@dataclasses.dataclass
class MultiViewTable:
    """All views of N objects. Views 4k to 4k+3 of an object are one orthogonal set."""

    images: UInt8[np.ndarray, "N M H W 4"]
    azimuth_deg: Float[np.ndarray, "N M"]
    elevation_deg: Float[np.ndarray, "N M"]
    fov_deg: Float[np.ndarray, "N M"]
    distance: Float[np.ndarray, "N M"]
    names: list[str]

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def load(cls, path: str | None, split: str, most: int | None = None) -> MultiViewTable:
        """Reads one split of a rendered data set ("samples" or None: the shipped one).

        Args:
          path: its folder, or a set in a packed file (`data/packed.py`).
          most: objects to read, from the first that can be read; all if None.
        """
        from iso3d_jax.data import packed

        if place := packed.find(path):
            return packed.read(place, split, most)
        from iso3d_jax.data.multiview import open_dataset

        dataset = open_dataset(path, split)
        records = list(dataset) if most is None else first_readable(dataset, most)
        check_sets(records[0], path or "samples")
        columns = {
            key: np.stack([record[key] for record in records]) for key in ("images", *CAMERA)
        }
        return cls(names=[str(record["name"]) for record in records], **columns)


def join(tables: list[MultiViewTable]) -> MultiViewTable:
    """One table of the objects of several, in their order.

    Raises:
      UserError: pictures of another size or number.
    """
    first = tables[0]
    for table in tables[1:]:
        if table.images.shape[1:] != first.images.shape[1:]:
            raise UserError(
                "data sets have pictures of different number or size: "
                f"{list(first.images.shape[1:])} and {list(table.images.shape[1:])} "
                "(views, height, width, channels); render them with equal --sets and --resolution"
            )
    columns = [f.name for f in dataclasses.fields(MultiViewTable) if f.name != "names"]
    return MultiViewTable(
        names=[name for table in tables for name in table.names],
        **{key: np.concatenate([getattr(table, key) for table in tables]) for key in columns},
    )


def prepare_references(images: UInt8[np.ndarray, "N M H W 4"], mode: str = "centred"):
    """Every view as it would be prepared if a user gave it as the picture; straight RGBA uint8.

    `prepare_picture` composites on white, so alpha comes from preparing the view painted black
    (`prepare_views`). Objects go over threads.
    """
    out = np.empty((*images.shape[:2], images.shape[2], images.shape[2], 4), np.uint8)

    def prepare(i: int) -> None:
        out[i] = prepare_views(images[i], mode)

    with ThreadPoolExecutor(THREADS) as pool:
        collections.deque(pool.map(prepare, range(len(images))), maxlen=0)
    return out


def mix_references(images: UInt8[np.ndarray, "M H W 4"], modes: Sequence[str], shift: int = 0):
    """Every view of an object prepared in one of several ways, which take turns; see above."""
    turn = (np.arange(len(images)) + shift) % len(modes)
    out = np.empty_like(images)
    for k, mode in enumerate(modes):
        out[turn == k] = prepare_views(images[turn == k], mode)
    return out


def shrink(rgba: np.ndarray, size: int) -> np.ndarray:
    """Straight RGBA bytes [N, M, H, W, 4] to area means of S x S, as straight RGBA bytes."""

    def one(images):
        x = images.astype(np.float32) / 255
        x[..., :3] *= x[..., 3:]
        step = x.shape[-2] // size
        x = x.reshape(*x.shape[:-3], size, step, size, step, 4).mean((-4, -2))
        x[..., :3] /= np.maximum(x[..., 3:], 1e-3)
        return (x * 255 + 0.5).astype(np.uint8)

    with ThreadPoolExecutor(THREADS) as pool:
        return np.stack(list(pool.map(one, rgba)))


def sample_views(
    rng: np.random.Generator,
    num_objects: int,
    num_sets: int,
    azimuth_deg,
    batch: int,
    front_share: float,
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """Draws objects, a target set of each and a reference view outside that set.

    Args:
      azimuth_deg: [N, M], 0 is the object's front.
      front_share: probability that the reference is drawn among the front half's views only.

    Returns:
      object, set and reference-view indices.
    """
    objects = rng.integers(num_objects, size=batch)
    return objects, *sample_targets(rng, num_sets, [azimuth_deg[i] for i in objects], front_share)


def sample_targets(
    rng: np.random.Generator, num_sets: int, azimuth_deg: list, front_share: float
) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """A target set and a reference view outside it for each of B objects; see `sample_views`.

    Args:
      azimuth_deg: each object's [M].
    """
    batch = len(azimuth_deg)
    sets = rng.integers(num_sets, size=batch)
    front = rng.random(batch) < front_share
    references = np.empty(batch, np.int64)
    views = np.arange(num_sets * SET)
    for i, (azimuth, target) in enumerate(zip(azimuth_deg, sets, strict=True)):
        allowed = views // SET != target if num_sets > 1 else views >= 0
        if front[i]:
            facing = allowed & (np.abs((azimuth + 180.0) % 360.0 - 180.0) <= 90.0)
            allowed = facing if facing.any() else allowed
        references[i] = rng.choice(views[allowed])
    return sets, references
