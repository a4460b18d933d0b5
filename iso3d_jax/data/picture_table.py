"""A data set of pictures as training reads it when latents are computed in each step.

`data/encoded.py` is its counterpart with latents computed once. Pictures are read from disk
object by object and view by view, so a set may be larger than the memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from iso3d_jax.core.errors import shorten
from iso3d_jax.data.camera_ranges import range_of_records
from iso3d_jax.data.damaged import DAMAGE, DamagedRecord, first_readable
from iso3d_jax.data.multiview import MultiViewDataset
from iso3d_jax.data.multiview.strips import decode_views, read_stored
from iso3d_jax.data.orthogonal_sets import check_sets
from iso3d_jax.data.prepared_views import prepare_views


@dataclasses.dataclass
class PictureTable:
    """Objects of a rendered data set in colour variants, each as it is and mirrored.

    Attributes:
      records: what `open_dataset` gives, or a list of its records.
      variants: colour variants; 1 keeps the objects' own colours only.
      pictures: how references are prepared (`prepare_picture`'s modes), views taking turns as in
        `encode.encode_objects`.
    """

    records: Sequence[dict[str, Any]]
    variants: int
    pictures: Sequence[str]

    def __len__(self) -> int:
        return len(self.records)

    def __post_init__(self):
        self.mirrored = np.arange(2 * self.variants) % 2 == 1
        first = first_readable(_Stored(self), 8)
        check_sets(first[0], getattr(self.records, "path", "in memory"))
        self.num_views = len(first[0]["azimuth_deg"])
        self.camera_range = range_of_records(first)
        self.has_lens = "fov_deg" in first[0] and "distance" in first[0]

    def name(self, index: int) -> str:
        return str(self._stored(index)["name"])

    def record(self, index: int) -> PicturedObject:
        return PicturedObject(self._stored(index), index, self.pictures)

    def _stored(self, index: int) -> dict[str, Any]:
        """A record, none of its pictures decoded where it comes from a disk."""
        if not isinstance(self.records, MultiViewDataset):
            return self.records[index]
        try:
            return read_stored(self.records, index)
        except DAMAGE as error:
            raise self._damaged(index, error) from None

    def _damaged(self, index: int, error: Exception) -> DamagedRecord:
        path = getattr(self.records, "path", "memory")
        return DamagedRecord(
            f"object {index} of the data set {path} is damaged ({shorten(error, 120)}): render it "
            "again"
        )


class _Stored(Sequence):
    """A table's records as they are stored."""

    def __init__(self, table: PictureTable):
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._table._stored(index)


@dataclasses.dataclass
class PicturedObject:
    """One object; its pictures are decoded when they are asked for."""

    stored: dict[str, Any]
    index: int
    pictures: Sequence[str]

    @property
    def azimuth_deg(self) -> Float[np.ndarray, " M"]:
        return self.stored["azimuth_deg"]

    @property
    def elevation_deg(self) -> Float[np.ndarray, " M"]:
        return self.stored["elevation_deg"]

    @property
    def fov_deg(self) -> Float[np.ndarray, " M"] | None:
        return self.stored.get("fov_deg")

    @property
    def distance(self) -> Float[np.ndarray, " M"] | None:
        return self.stored.get("distance")

    def _pictures(self, views: np.ndarray) -> UInt8[np.ndarray, "V H W 4"]:
        if "images" in self.stored:
            return self.stored["images"][views]
        try:
            return decode_views(self.stored["strip"], len(self.azimuth_deg), views.tolist())
        except DAMAGE as error:
            raise DamagedRecord(
                f"the pictures of {self.stored['name']}, object {self.index} of its data set, are "
                f"damaged ({shorten(error, 120)}): render it again"
            ) from None

    def read(self, variant: int, reference: int, views, with_reference: bool) -> dict:
        """What `encode.encode_rows` makes latents and an embedding of.

        Returns:
          `views` [V, H, W, 4] and `prepared` [H, W, 4], bytes with straight alpha; `colour` and
          `object`, which decide the colour change; with a reference `reference_view` [1, H, W, 4].

        Raises:
          DamagedRecord: the pictures cannot be decoded.
        """
        colour, mirror = divmod(int(variant), 2)
        flip = np.s_[..., ::-1, :] if mirror else np.s_[...]
        mode = self.pictures[(reference + self.index + int(variant)) % len(self.pictures)]
        asked, where = np.unique(np.append(np.asarray(views), reference), return_inverse=True)
        images = self._pictures(asked)[where]  # the reference may be one of the views
        row = {
            "views": images[:-1][flip],
            "prepared": prepare_views(images[-1:], mode)[0][flip],
            "colour": np.int32(colour),
            "object": np.int32(self.index),
        }
        if with_reference:
            row["reference_view"] = images[-1:][flip]
        return row
