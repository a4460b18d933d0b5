"""Encoded sets as training reads them: in memory, or object by object from a folder of shards.

`data/picture_table.py` is their counterpart with pictures. All have a length, `num_views`,
`mirrored` (of each variant), `name(i)` and `record(i)`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float

from iso3d_jax.core.files import make_folder
from iso3d_jax.core.json_files import need
from iso3d_jax.data.encoded_shards import ShardReader, ShardWriter, finish
from iso3d_jax.data.orthogonal_sets import CAMERA


class Encoded(Protocol):
    """Latent moments and embeddings of A variants of all M views of N objects."""

    def __len__(self) -> int: ...

    @property
    def mirrored(self) -> Bool[np.ndarray, " A"]: ...

    @property
    def num_views(self) -> int: ...

    @property
    def latent(self) -> tuple[int, ...]:
        """[h, w, 2C] of a view's moments."""
        ...

    @property
    def width(self) -> int:
        """Of an embedding."""
        ...

    @property
    def has_lens(self) -> bool:
        """Whether fields of view and distances of the cameras are known."""
        ...

    def name(self, index: int) -> str: ...

    def record(self, index: int) -> EncodedObject:
        """One object; nothing but what is asked of it is read."""
        ...

    def cameras(self, index: int) -> Float[np.ndarray, "K M"]:
        """`orthogonal_sets.CAMERA` of an object's views; of older sets the first two alone."""
        ...

    def read(self, index: int, variant: int, reference: int, views, with_reference: bool) -> dict:
        """See `EncodedObject.read`."""
        ...


@dataclasses.dataclass
class EncodedObject:
    """One object of an encoded set."""

    table: Encoded
    index: int

    def __post_init__(self):
        found = self.table.cameras(self.index)
        self.azimuth_deg, self.elevation_deg = found[:2]
        self.fov_deg, self.distance = found[2:] if len(found) == len(CAMERA) else (None, None)

    def read(self, variant: int, reference: int, views, with_reference: bool) -> dict:
        """What training needs of some views and a reference.

        Returns:
          `moments` [V, h, w, 2C] and `embedding` [D], and with a reference `reference_moments`
          [1, h, w, 2C].
        """
        return self.table.read(self.index, variant, reference, views, with_reference)


@dataclasses.dataclass
class EncodedTable:
    """A set in memory, for a few hundred objects.

    `names` are the objects'; a set without them has numbers in their place. `camera_range` says
    from where they are seen (`camera_ranges.py`), where it is known.
    """

    moments: Float[np.ndarray, "A N M h w D2"]
    embedding: Float[np.ndarray, "A N M D"]
    mirrored: Bool[np.ndarray, " A"]
    azimuth_deg: Float[np.ndarray, "N M"]
    elevation_deg: Float[np.ndarray, "N M"]
    names: list[str] = dataclasses.field(default_factory=list)
    camera_range: str = ""
    fov_deg: Float[np.ndarray, "N M"] | None = None
    distance: Float[np.ndarray, "N M"] | None = None

    def __len__(self) -> int:
        return self.moments.shape[1]

    @property
    def num_views(self) -> int:
        return self.moments.shape[2]

    @property
    def latent(self) -> tuple[int, ...]:
        return self.moments.shape[3:]

    @property
    def width(self) -> int:
        return self.embedding.shape[-1]

    def name(self, index: int) -> str:
        return self.names[index] if self.names else f"object {index}"

    def record(self, index: int) -> EncodedObject:
        return EncodedObject(self, index)

    @property
    def has_lens(self) -> bool:
        return self.fov_deg is not None and self.distance is not None

    def cameras(self, index: int) -> Float[np.ndarray, "K M"]:
        columns = (self.azimuth_deg, self.elevation_deg, self.fov_deg, self.distance)
        return np.stack([column[index] for column in columns if column is not None])

    def read(self, index: int, variant: int, reference: int, views, with_reference: bool) -> dict:
        moments = self.moments[variant, index]
        row = {"moments": moments[views], "embedding": self.embedding[variant, index, reference]}
        if with_reference:
            row["reference_moments"] = moments[reference][None]
        return row

    def save(self, folder: str | Path) -> None:
        """Writes the set as one shard, which `EncodedSet` reads."""
        if (self.mirrored != (np.arange(len(self.mirrored)) % 2 == 1)).any():
            raise ValueError("of a set on disk every second variant is mirrored")
        folder = make_folder(folder)
        with ShardWriter(folder, 0, 1) as shard:
            for i in range(len(self)):
                shard.add(
                    self.name(i),
                    self.cameras(i),
                    self.moments[:, i],
                    self.embedding[:, i],
                )
        finish(folder, 1, {"camera_range": self.camera_range})


class EncodedSet:
    """A set on disk (`encoded_shards.py`), larger than the memory; any number of threads reads."""

    def __init__(self, folder: str | Path):
        """
        Raises:
          UserError: no complete set, one of an earlier version, or a damaged one.
        """
        self.shards = ShardReader(folder)
        layout = self.shards.layout
        self.mirrored = np.arange(layout.variants) % 2 == 1
        self.num_views, self.latent, self.width = layout.views, layout.latent, layout.width
        self.camera_range = need(self.shards.facts, "camera_range", str, folder, default="")

    def __len__(self) -> int:
        return len(self.shards)

    def name(self, index: int) -> str:
        return self.shards.name(index)

    def record(self, index: int) -> EncodedObject:
        return EncodedObject(self, index)

    @property
    def has_lens(self) -> bool:
        return self.shards.has_lens

    def cameras(self, index: int) -> Float[np.ndarray, "K M"]:
        return self.shards.cameras(index)

    def read(self, index: int, variant: int, reference: int, views, with_reference: bool) -> dict:
        """Each record once, and none that no view is in.

        Raises:
          DamagedRecord: one of them cannot be read.
        """
        size = self.shards.layout.group
        views = np.asarray(views)
        found = {
            int(group): self.shards.group(index, variant, int(group))
            for group in np.unique(np.append(views, reference) // size)
        }

        def moments(view) -> np.ndarray:
            return found[view // size][0][view % size]

        row = {
            "moments": np.stack([moments(int(view)) for view in views]),
            "embedding": found[reference // size][1][reference % size].copy(),
        }
        if with_reference:
            row["reference_moments"] = moments(reference)[None].copy()
        return row
