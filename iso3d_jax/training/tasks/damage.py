"""Objects that cannot be read: counted, left out, and too many of them end the run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.damaged import DamagedRecord
from iso3d_jax.training.tasks.mixtures import Table

Row = TypeVar("Row")


class Damage:
    """Reads objects of a table; in the place of a damaged one comes the next that is whole.

    Which one that is, the data alone decide, so batches stay a function of seed and step.
    """

    def __init__(self, table: Table, most: float):
        """
        Args:
          most: share of the table's objects that may be damaged.
        """
        self._table, self._most = table, most
        self._seen: set[int] = set()
        self._lock = threading.Lock()

    def record(self, index: int) -> Any:
        """An object, or the next whose record can be read.

        Raises:
          UserError: too many cannot.
        """
        while True:
            try:
                return self._table.record(index)
            except DamagedRecord as error:
                self._count(index, error)
                index = (index + 1) % len(self._table)

    def skip(self, record: Any, read: Callable[[Any], Row]) -> Row:
        """What `read` makes of a record, or of the next of which it can be made.

        Raises:
          UserError: of too many it cannot.
        """
        while True:
            try:
                return read(record)
            except DamagedRecord as error:
                self._count(record.index, error)
                record = self.record((record.index + 1) % len(self._table))

    def _count(self, index: int, error: DamagedRecord) -> None:
        """Says the first, and then each time that there are twice as many."""
        with self._lock:
            known = index in self._seen
            self._seen.add(index)
            count = len(self._seen)
        if count > self._most * len(self._table):
            raise UserError(
                f"{count} of {len(self._table)} objects are damaged, more than max_damaged_share "
                f"{self._most:g}: {error}"
            ) from None
        if not known and count & (count - 1) == 0:
            print(f"warning: damaged objects are left out, {count} so far: {error}",
                  file=sys.stderr, flush=True)  # fmt: skip
