"""Ways to damage bytes and JSON values, all drawn from a generator that is given."""

from __future__ import annotations

import copy
import json

import numpy as np

ODD_BYTES = (0, 1, 0x7F, 0x80, 0xFF, ord("."), ord("("), ord("R"), ord("b"), ord("}"), ord("\n"))
ODD_VALUES = (
    None, True, False, 0, -1, 1, 3, 7, 1 << 31, 1 << 63, 10**30, 0.5, -0.0, 1e308, 1e400, "", "x",
    "gelu", "\ud800", "a" * 10_000, "../x", "/etc/passwd", "\x00", [], [[]], [1, "a"], {},
    {"a": {}}, [0] * 1000, ["x", None],
)  # fmt: skip


def mutate_bytes(draw: np.random.Generator, raw: bytes, most: int = 6) -> bytes:
    """Some bytes of a text changed, put in, taken out, doubled or cut off."""
    data = bytearray(raw)
    for _ in range(int(draw.integers(1, most + 1))):
        if not data:
            break
        at = int(draw.integers(len(data)))
        length = int(draw.integers(1, 1 + min(64, len(data) - at)))
        kind = draw.integers(8)
        if kind == 0:
            data[at] ^= 1 << int(draw.integers(8))
        elif kind == 1:
            data[at] = int(draw.integers(256))
        elif kind == 2:
            data[at] = int(draw.choice(ODD_BYTES))
        elif kind == 3:
            data[at:at] = bytes(int(v) for v in draw.integers(0, 256, length))
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[at : at + length] * int(draw.integers(1, 5))
        elif kind == 6:
            data[at : at + 4] = int(draw.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF])).to_bytes(
                4, "little"
            )
        elif draw.integers(8) == 0:
            del data[at:]
    return bytes(data)


def mutate_json(draw: np.random.Generator, value, most: int = 3):
    """A copy of a JSON value with a few of its entries replaced, renamed, moved or gone."""
    value = json.loads(json.dumps(value))
    for _ in range(int(draw.integers(1, most + 1))):
        places = list(_places(value))
        if not places or draw.integers(40) == 0:
            value = _odd(draw)
            continue
        holder, key = places[draw.integers(len(places))]
        kind = draw.integers(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(ODD_VALUES[draw.integers(len(ODD_VALUES))])[:200]] = holder.pop(key)
        elif kind == 2:
            other, name = places[draw.integers(len(places))]
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = json.loads(json.dumps(other[name]))
        elif kind == 3 and isinstance(holder[key], int | float):
            holder[key] = holder[key] * [-1, 0, 2, 0.5, 1e9][draw.integers(5)]
        else:
            holder[key] = _odd(draw)
    return value


def _odd(draw: np.random.Generator):
    """An odd value of its own, which later changes may change."""
    return copy.deepcopy(ODD_VALUES[draw.integers(len(ODD_VALUES))])


def _places(value):
    """(holder, key) of all entries inside a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def to_json(draw: np.random.Generator, value) -> bytes:
    """A JSON value as bytes, which are themselves damaged one time in five."""
    raw = json.dumps(value).encode()
    return mutate_bytes(draw, raw, 3) if draw.integers(5) == 0 else raw
