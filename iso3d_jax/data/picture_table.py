"""A data set of pictures as training reads it when latents are computed in each step.

`encode.EncodedTable` is its counterpart with latents computed once. Pictures are read from disk
object by object, so a set may be larger than the memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from iso3d_jax.data.table import prepare_references


@dataclasses.dataclass
class PictureTable:
    """Objects of a rendered data set in colour variants, each as it is and mirrored.

    Attributes:
      records: what `open_dataset` gives, or a list of its records.
      variants: colour variants; 1 keeps the objects' own colours only.
      picture: how references are prepared (`prepare_picture`'s mode).
    """

    records: Sequence[dict[str, Any]]
    variants: int
    picture: str

    def __len__(self) -> int:
        return len(self.records)

    def __post_init__(self):
        self.mirrored = np.arange(2 * self.variants) % 2 == 1
        self.num_views = len(self.records[0]["azimuth_deg"])

    def name(self, index: int) -> str:
        return str(self.records[index]["name"])

    def record(self, index: int) -> PicturedObject:
        return PicturedObject(self.records[index], index, self.picture)


@dataclasses.dataclass
class PicturedObject:
    """One object's pictures, read."""

    pictures: dict[str, Any]
    index: int
    picture: str

    @property
    def azimuth_deg(self) -> Float[np.ndarray, " M"]:
        return self.pictures["azimuth_deg"]

    @property
    def elevation_deg(self) -> Float[np.ndarray, " M"]:
        return self.pictures["elevation_deg"]

    def read(self, variant: int, reference: int, views, with_reference: bool) -> dict:
        """What `encode.encode_rows` makes latents and an embedding of.

        Returns:
          `views` [V, H, W, 4] and `prepared` [H, W, 4], bytes with straight alpha; `colour` and
          `object`, which decide the colour change; with a reference `reference_view` [1, H, W, 4].
        """
        colour, mirror = divmod(int(variant), 2)
        flip = np.s_[..., ::-1, :] if mirror else np.s_[...]
        images = self.pictures["images"]
        prepared = prepare_references(images[None, [reference]], self.picture)[0, 0]
        row = {
            "views": images[views][flip],
            "prepared": prepared[flip],
            "colour": np.int32(colour),
            "object": np.int32(self.index),
        }
        if with_reference:
            row["reference_view"] = images[[reference]][flip]
        return row
