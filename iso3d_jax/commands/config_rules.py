"""Kinds of rules for values: what one may be, in words and as a test. The table: config_checks.

Nothing here knows of any config; each function makes a `Rule` whose words complete "must be ...".
Booleans are no numbers, and numbers that are not finite are accepted by no rule.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

MOST = 2**31 - 1  # of whole numbers: what a device's int32 holds
LARGE = 1e9  # of real ones: beyond it float32 sums lose what is added


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value may be.

    Attributes:
      what: completes "must be ...".
      accepts: whether a value is that; called with values of any type.
      names: the words among which the nearest one is proposed.
    """

    what: str
    accepts: Callable[[Any], bool]
    names: tuple[str, ...] = ()


def is_whole(value: Any) -> bool:
    """A whole number, of Python or of numpy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """A finite real number."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and math.isfinite(value)


def is_row(value: Any, length: int | None = None) -> bool:
    """A tuple or list, of a certain length if one is given."""
    row = isinstance(value, Sequence) and not isinstance(value, str)
    return row and (length is None or len(value) == length)


def whole(low: int, high: int = MOST, note: str = "") -> Rule:
    """A whole number from `low` to `high`; `note` says what an outstanding one means."""
    bounds = f"of at least {low}" if high == MOST else f"from {low} to {high}"
    return Rule(f"a whole number {bounds}{note}", lambda v: is_whole(v) and low <= v <= high)


def number(low: float, high: float = LARGE, *, above: bool = False, below: bool = False) -> Rule:
    """A finite number from `low` to `high`; with `above` and `below` more or less than them."""
    low_words = f"above {low:g}" if above else f"of at least {low:g}"
    bounds = f"{low_words} and {'below' if below else 'at most'} {high:g}"

    def accepts(value):
        if not is_number(value):
            return False
        return (value > low if above else value >= low) and (
            value < high if below else value <= high
        )

    return Rule(f"a number {bounds}", accepts)


def choice(*names: str) -> Rule:
    """One of some words; '' is said as empty."""
    said = ", ".join(name or "empty" for name in names)
    return Rule(f"one of {said}", lambda v: isinstance(v, str) and v in names, names)


def subset(*names: str) -> Rule:
    """One or more of some words."""
    return Rule(
        f"one or more of {', '.join(names)}",
        lambda v: is_row(v) and len(v) > 0 and all(one in names for one in v),
    )


def pair(low: float, high: float, what: str, *, distinct: bool = False) -> Rule:
    """(first, last) within open bounds, the first not above the last."""

    def accepts(value):
        if not is_row(value, 2) or not all(is_number(v) and low < v < high for v in value):
            return False
        return value[0] < value[1] if distinct else value[0] <= value[1]

    order = "below" if distinct else "not above"
    return Rule(f"(low, high) of {what}, the first {order} the second", accepts)


def row(each: Rule) -> Rule:
    """Several values; none at all is allowed."""
    return Rule(f"a row, each {each.what}", lambda v: is_row(v) and all(map(each.accepts, v)))


def ramp(each: Rule) -> Rule:
    """A number, or one that goes from one value to another between two iterations."""

    def accepts(value):
        if not is_row(value, 4):
            return each.accepts(value)
        start, *ends, end = value
        iterations = all(is_whole(v) and 0 <= v <= MOST for v in (start, end)) and start < end
        return iterations and all(map(each.accepts, ends))

    return Rule(
        f"{each.what}, or (first iteration, first value, last value, last iteration) of such "
        "values, the first iteration before the last",
        accepts,
    )


def either(first: Rule, second: Rule) -> Rule:
    """One kind of value or another."""
    return Rule(
        f"{first.what}, or {second.what}",
        lambda v: first.accepts(v) or second.accepts(v),
        first.names + second.names,
    )
