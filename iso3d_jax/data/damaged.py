"""Objects of a data set that cannot be read: what says so, and how many are borne."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iso3d_jax.core.errors import UserError, shorten

MAX_DAMAGED_SHARE = 0.001  # of the objects of a set
# What readers of data sets raise on bytes that are not what they were.
DAMAGE = (RuntimeError, ValueError, KeyError, IndexError, OSError, SyntaxError, EOFError)


class DamagedRecord(UserError):
    """A record of a data set that cannot be read, while others can."""


def first_readable(records: Sequence[Any], most: int, among: int = 64) -> list[Any]:
    """The first of the records that can be read.

    Args:
      most: how many are wanted.
      among: so many are tried.

    Raises:
      UserError: none of them can be read.
    """
    found, last = [], None
    for k in range(min(among, len(records))):
        try:
            found.append(records[k])
        except (DamagedRecord, *DAMAGE) as error:
            last = error
        if len(found) == most:
            break
    if not found:
        raise UserError(
            f"none of the first {min(among, len(records))} objects of a data set can be read "
            f"({shorten(last, 120)}): render it again"
        )
    return found
