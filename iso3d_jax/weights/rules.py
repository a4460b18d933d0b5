"""How a table of rules maps the weights of one layout to ours, and back.

Our weights are known by path, "input_blocks/1/res/conv_in/kernel". A rule says where such a
weight lies in another layout, so one table serves both directions, and both are strict: every
weight of ours needs a source, and every source key a rule or a place on a list of leftovers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from iso3d_jax.core.errors import UserError, shorten

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_SHOWN = 20


class Rule(NamedTuple):
    """One line of a table.

    ours: regular expression for our whole path. A trailing "/*" stands for any of kernel, scale
      and bias.
    theirs: their key, with \\1, \\2 ... from the expression and "*" for weight or bias. Several
      keys are one weight of ours cut along the outputs (q, k, v).
    form: how they store what is not told by our shape: 'linear' a 1x1 convolution of ours as a
      matrix, 'transposed' a bare matrix the other way round.
    """

    ours: str
    theirs: str | tuple[str, ...]
    form: Literal["", "linear", "transposed"] = ""


Table = Sequence[Rule]
_compiled = functools.lru_cache(maxsize=None)(re.compile)  # tables are longer than re's own cache


class Match(NamedTuple):
    """Where one weight of ours lies in their layout."""

    keys: tuple[str, ...]
    form: str


def nest(ours: str, theirs: str, table: Table) -> list[Rule]:
    """A table with prefixes: the parts of a block at a place. Their templates must be plain."""
    return [Rule(ours + rule.ours, _prefix(theirs, rule.theirs), rule.form) for rule in table]


def _prefix(prefix, keys):
    return prefix + keys if isinstance(keys, str) else tuple(prefix + key for key in keys)


def find(table: Table, path: str) -> Match | None:
    """The first rule that matches a path of ours."""
    stem, _, leaf = path.rpartition("/")
    for rule in table:
        star = rule.ours.endswith("/*")
        if star and leaf not in _LEAVES:
            continue
        pattern = _compiled(rule.ours[:-2] if star else rule.ours)
        match = pattern.fullmatch(stem if star else path)
        if match:
            templates = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
            keys = [match.expand(t.replace("*", _LEAVES[leaf]) if star else t) for t in templates]
            return Match(tuple(keys), rule.form)
    return None


def to_ours(arrays: Sequence[np.ndarray], path: str, form: str, ndim: int) -> np.ndarray:
    """Their arrays (PyTorch's layout) as our weight of `ndim` axes; views where possible.

    Linear [out, in] -> [in, out]; convolution [out, in, h, w] -> [h, w, in, out].
    """
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    if form == "transposed":
        return array.T
    if not path.endswith("kernel"):
        return array
    if ndim == 2:
        if array.ndim == 4 and array.shape[2:] == (1, 1):
            array = array[:, :, 0, 0]
        return array.T
    if array.ndim == 2:
        array = array[:, :, None, None]
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def to_theirs(array: np.ndarray, path: str, match: Match) -> list[np.ndarray]:
    """Our weight as their arrays, one a key: the inverse of `to_ours`."""
    if match.form == "transposed":
        array = array.T
    elif path.endswith("kernel"):
        array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
        if match.form == "linear":
            array = array[:, :, 0, 0]
    return np.split(array, len(match.keys))


def _listed(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    shown = ", ".join(shorten(name, 160) for name in names[:_SHOWN])
    return shown + " ..." * (len(names) > _SHOWN)


def plan(
    table: Table,
    shapes: Mapping[str, tuple[int, ...]],
    source: Mapping[str, tuple[int, ...]],
    leftovers: Iterable[str],
    what: str,
) -> dict[str, Match]:
    """Which keys make each weight of ours; strict both ways.

    Args:
      table: rules of the layout.
      shapes: of our weights, by path.
      source: shapes of their keys.
      leftovers: expressions for keys that belong to nothing of ours.
      what: is being read, for the messages.

    Raises:
      UserError: lists weights without a source, keys without a rule, and unfitting shapes.
    """
    found, missing, unfit, used = {}, [], [], set()
    for path, shape in shapes.items():
        match = find(table, path)
        lost = [path] if match is None else [key for key in match.keys if key not in source]
        if match is None or lost:
            missing += lost
            continue
        used.update(match.keys)
        blanks = [np.broadcast_to(np.int8(0), source[key]) for key in match.keys]
        try:
            fits = to_ours(blanks, path, match.form, len(shape)).shape == tuple(shape)
        except ValueError:
            fits = False
        if not fits:
            sizes = " + ".join(str(list(source[key])) for key in match.keys)
            unfit.append(f"{match.keys[0]} {sizes} for {list(shape)}")
        found[path] = match
    kept = [re.compile(pattern) for pattern in leftovers]
    extra = [k for k in source if k not in used and not any(p.match(k) for p in kept)]
    problems = [
        f"{len(names)} {label}: {_listed(names)}"
        for names, label in (
            (missing, "weights are missing"),
            (extra, "keys are unknown"),
            (unfit, "shapes do not fit"),
        )
        if names
    ]
    if problems:
        raise UserError(f"{what} does not fit: {'; '.join(problems)}")
    return found
