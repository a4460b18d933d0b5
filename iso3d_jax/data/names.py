"""What is told by a name: an object's seed, a choice of several, a part of many."""

import hashlib
from collections.abc import Collection

from iso3d_jax.core.errors import UserError, shorten


def hash_name(name: str) -> int:
    """64 bits of a name, the same on every machine: a seed beside others."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def check_names(kind: str, names: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """Names that were given, once each and in the order of those that are known.

    Args:
      kind: what they name, and with an s the flag that gives them.

    Raises:
      UserError: there is none of such a name.
    """
    for name in names:
        if name not in known:
            raise UserError(
                f"--{kind}s {shorten(name, 40)}: there is no such {kind}; choose from "
                + ", ".join(known)
            )
    return tuple(name for name in known if name in names)


def parse_part(text: str) -> tuple[int, int] | None:
    """(i, n) of "i/n", part i of n, which are numbered from 0; None of anything else."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        return None
    return int(index), int(count)
