"""From a config, which the commands read and change, to frozen dataclasses that the code takes."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

Spec = TypeVar("Spec")


def make(cls: type[Spec], values: Mapping[str, Any] | ConfigDict) -> Spec:
    """A frozen dataclass from a config's values; lists become tuples, so that it can be hashed.

    Args:
      cls: a dataclass; fields whose type is a dataclass are made from the mapping of that name.
      values: a mapping (a ConfigDict, or a dict read from JSON) with these fields and no others.

    Raises:
      TypeError: a field without a default has no value, or a value has no field.
    """
    types = typing.get_type_hints(cls)
    fields = {f.name for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(values) - fields)
    if unknown:
        raise TypeError(f"{cls.__name__} has no field {', '.join(unknown)}")
    return cls(**{name: _value(types[name], values[name]) for name in values})


def in_order(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with the keys of every level in order, as a config's `to_dict` has them."""
    return {k: in_order(v) if isinstance(v, Mapping) else v for k, v in sorted(values.items())}


def _value(kind, value):
    if dataclasses.is_dataclass(kind) and hasattr(value, "items"):
        return make(kind, value)  # pyright: ignore[reportArgumentType]
    if isinstance(value, (list, tuple)):
        return tuple(_value(None, item) for item in value)
    return value
