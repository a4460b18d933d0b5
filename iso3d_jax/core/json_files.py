"""JSON that somebody else may have written: read once, and refused in one sentence.

Python's reader takes more than JSON (NaN, Infinity), fails in several ways where a text is nested
a thousand deep or names a number of a million digits, and gives whatever is there. Readers of ours
say what they need: `read_object` for a file that must hold an object, `need` for an entry of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iso3d_jax.core.errors import UserError, shorten

MAX_BYTES = 32 << 20  # of a JSON text; a large model's index has 100 kB
_ABSENT: Any = object()
_KINDS = {
    dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number",
    bool: "true or false",
}  # fmt: skip


def parse_json(text: bytes | str, *, finite: bool = True) -> Any:
    """The value of a JSON text.

    Args:
      text: the text.
      finite: refuse NaN and Infinity, which JSON has not; files of ours note losses with them.

    Raises:
      ValueError: it is none, with numbers that are not finite, nested too deep, or too large.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MB")
    try:
        return json.loads(text, parse_constant=_refuse_constant if finite else float)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not a number of JSON")


def read_object(
    path: str | os.PathLike, remedy: str = "", *, finite: bool = True
) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
      path: the file.
      remedy: what the reader may do where it is damaged; ends the sentence.
      finite: see `parse_json`.

    Raises:
      UserError: the file cannot be read, is no JSON or holds something else.
    """
    path, end = Path(path), f"; {remedy}" if remedy else ""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MB")
        content = parse_json(path.read_bytes(), finite=finite)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}{end}") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are
        raise UserError(f"{path} is damaged: {shorten(error)}{end}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it is no JSON object{end}")
    return content


def need(
    content: Mapping[str, Any], key: str, kind: type, where: object, *, default: Any = _ABSENT,
    least: float | None = None, most: float | None = None,
) -> Any:  # fmt: skip
    """An entry of an object, checked.

    Args:
      content: the object.
      key: of the entry.
      kind: dict, list, str, bool, int, or float, which a whole number is too.
      where: the file, or what the message is to begin with.
      default: what an absent entry, or null, is; without one it must be there.
      least, most: bounds of a number.

    Raises:
      UserError: absent, of another kind, or out of bounds.
    """
    value, named = content.get(key), shorten(key)  # keys may be the file's own
    if value is None:
        if default is not _ABSENT:
            return default
        raise UserError(f"{where} is damaged: it has no '{named}'")
    fits = type(value) in ((int, float) if kind is float else (kind,))
    if not fits:
        raise UserError(f"{where}: its '{named}' is {shorten(value, 60)!r}, not {_KINDS[kind]}")
    if kind in (int, float):
        return kind(_bounded(value, named, where, least, most))
    return value


def _bounded(value, key: str, where: object, least: float | None, most: float | None):
    low = -1e15 if least is None else least
    high = 1e15 if most is None else most
    if not low <= value <= high:
        raise UserError(
            f"{where}: its '{key}' is {shorten(value, 60)}, not between {low:g} and {high:g}"
        )
    return value
