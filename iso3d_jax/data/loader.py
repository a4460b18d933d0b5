"""Batches of pictures for the multi-view stages, as a pure function of (seed, step).

A resumed run sees the batches an unbroken one would have seen, and any worker can make any batch.
Training on latents computed once does not go through here (see `data/encode.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, UInt8

from iso3d_jax.data.pictures import prepare_picture
from iso3d_jax.data.table import SET, MultiViewTable, draw_views


def mirrored_azimuth(azimuth_deg):
    """Azimuth of a view after its picture was flipped left to right, in [0, 360).

    The mirror image of an object seen from azimuth a is the mirrored object (y negated) seen from
    -a; elevations stay.
    """
    return np.mod(-np.asarray(azimuth_deg), 360.0).astype(np.float32)


def white_background(rgba: UInt8[np.ndarray, "... 4"]) -> Float[np.ndarray, "... 3"]:
    """Straight-alpha RGBA on white, float32 in [0, 1]."""
    rgba = rgba.astype(np.float32) / 255.0
    return rgba[..., :3] * rgba[..., 3:] + (1.0 - rgba[..., 3:])


@dataclasses.dataclass(frozen=True)
class MultiViewBatches:
    """Batches of four orthogonal views with a reference picture from another camera.

    Attributes:
      table: the split in memory.
      batch_size: objects in a batch (B).
      seed: with the step it decides everything.
      front_share: probability that the reference is drawn among the views of the front half
        (within 90 degrees of the front), where people photograph things from.
      mirror_share: probability that all pictures of an object are flipped left to right.
      picture: how the reference is prepared (`prepare_picture`'s mode).
    """

    table: MultiViewTable
    batch_size: int
    seed: int = 0
    front_share: float = 0.5
    mirror_share: float = 0.5
    picture: str = "centred"

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step.

        Returns:
          views [B, V, H, W, 3] and reference [B, H, W, 3], float32 in [0, 1] on white;
          azimuth_deg [B, V] relative to the reference, in [0, 360); elevation_deg [B, V];
          reference_elevation_deg [B]; fov_deg, distance [B, V]; object, reference_view [B] and
          mirrored [B], which say what was drawn.
        """
        rng = np.random.default_rng([self.seed, step])
        table, resolution = self.table, self.table.images.shape[2]
        objects, sets, references = draw_views(
            rng,
            len(table),
            table.images.shape[1] // SET,
            table.azimuth_deg,
            self.batch_size,
            self.front_share,
        )
        mirrored = rng.random(self.batch_size) < self.mirror_share
        views = sets[:, None] * SET + np.arange(SET)  # [B, V]
        rows = objects[:, None]
        pictures = table.images[rows, views]  # [B, V, H, W, 4]
        pictures = np.where(mirrored[:, None, None, None, None], pictures[..., ::-1, :], pictures)
        prepared = np.stack(
            [
                prepare_picture(
                    table.images[o, r][:, ::-1] if m else table.images[o, r],
                    resolution,
                    self.picture,
                )
                for o, r, m in zip(objects, references, mirrored, strict=True)
            ]
        )
        azimuth = table.azimuth_deg[rows, views] - table.azimuth_deg[objects, references][:, None]
        azimuth = np.where(mirrored[:, None], mirrored_azimuth(azimuth), np.mod(azimuth, 360.0))
        return {
            "views": white_background(pictures),
            "reference": prepared,
            "azimuth_deg": azimuth.astype(np.float32),
            "elevation_deg": table.elevation_deg[rows, views],
            "reference_elevation_deg": table.elevation_deg[objects, references],
            "fov_deg": table.fov_deg[rows, views],
            "distance": table.distance[rows, views],
            "object": objects,
            "reference_view": references,
            "mirrored": mirrored,
        }

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Batches of steps 0, 1, 2 and so on, without end."""
        step = 0
        while True:
            yield self.batch(step)
            step += 1
