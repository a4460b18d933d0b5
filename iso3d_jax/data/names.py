"""Seeds from objects' names, so that their order among others changes nothing."""

import hashlib


def hash_name(name: str) -> int:
    """64 bits of a name, the same on every machine: a seed beside others."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
