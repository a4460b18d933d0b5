"""Several data sets as one: after one another, or each with a share of all rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool

from iso3d_jax.core.errors import UserError


class Table(Protocol):
    """What batches are read from: `data/encoded.py`, `data/picture_table.py`, or a mixture."""

    def __len__(self) -> int: ...

    @property
    def mirrored(self) -> Bool[np.ndarray, " A"]:
        """Of each variant, whether its objects are mirrored."""
        ...

    @property
    def num_views(self) -> int:
        """Of each object."""
        ...

    @property
    def camera_range(self) -> str:
        """From where objects are seen (`data/camera_ranges.py`); "" where nobody knows."""
        ...

    @property
    def has_lens(self) -> bool:
        """Whether fields of view and distances of the cameras are known."""
        ...

    def name(self, index: int) -> str: ...

    def record(self, index: int) -> Any:
        """An object: `index`, `azimuth_deg`, `elevation_deg`, `fov_deg`, `distance` and `read`."""
        ...


@dataclasses.dataclass
class Member:
    """An object of a mixture: its own set's, with its number in the mixture."""

    record: Any
    index: int

    def __getattr__(self, name: str):
        if name == "record":  # of an instance that is being made by pickle
            raise AttributeError(name)
        return getattr(self.record, name)


class Mixture:
    """The objects of several sets, one set after another.

    Attributes:
      starts, lengths: of each set.
      weights: each set's share of all rows, which add up to 1; None is as many as it has objects.
    """

    def __init__(self, tables: Sequence[Table], names: Sequence[str], weights: Sequence[float]):
        """
        Args:
          tables: the sets.
          names: what messages call them.
          weights: each set's; none at all leaves each object as likely as any other.

        Raises:
          UserError: another number of weights than of sets, or sets that do not fit each other.
        """
        self.tables = list(tables)
        check_weights(weights, len(tables))
        first = tables[0]
        for table, name in zip(tables, names, strict=True):
            for what, theirs, mine in (
                ("views of each object", table.num_views, first.num_views),
                ("variants", len(table.mirrored), len(first.mirrored)),
            ):
                if theirs != mine:
                    raise UserError(
                        f"the data sets of a mixture need as many {what}: {name} has {theirs}, "
                        f"{names[0]} has {mine}"
                    )
        self.lengths = np.array([len(table) for table in tables])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.weights = np.asarray(weights, float) / sum(weights) if weights else None
        self.mirrored, self.num_views = first.mirrored, first.num_views
        self.has_lens = all(table.has_lens for table in tables)
        self.camera_range = ", ".join(sorted({t.camera_range for t in tables} - {""}))

    def __len__(self) -> int:
        return int(self.lengths.sum())

    def _find(self, index: int) -> tuple[Table, int]:
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.tables[which], int(index - self.starts[which])

    def name(self, index: int) -> str:
        table, own = self._find(index)
        return table.name(own)

    def record(self, index: int) -> Member:
        table, own = self._find(index)
        return Member(table.record(own), index)


def check_weights(weights: Sequence[float], sets: int) -> None:
    """Refuses another number of weights than of sets, before any of them is read.

    Raises:
      UserError: says both numbers.
    """
    if weights and len(weights) != sets:
        raise UserError(
            f"data_weights has {len(weights)} numbers for {sets} data set{'s' * (sets > 1)}: give "
            "one for each, or none"
        )


def mix(tables: Sequence[Table], names: Sequence[str], weights: Sequence[float]) -> Table:
    """A mixture, or the one set that there is; see `Mixture`."""
    return tables[0] if len(tables) == 1 and not weights else Mixture(tables, names, weights)
