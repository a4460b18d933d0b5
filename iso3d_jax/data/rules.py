"""Objects that rules make instead of files: `NAME:N` among the assets are N objects of these rules.

A package beside the core names its rules here; they are imported when objects of them are asked
for, so nothing here imports it.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol, runtime_checkable

from iso3d_jax.data.meshes import Part

RULES = {"procedural": "iso3d_jax.tiny.procedural"}


@runtime_checkable
class Rules(Protocol):
    """What such a module has. Both are functions of the number alone."""

    def choose_kind(self, number: int) -> str:
        """What the object is, for people."""
        ...

    def make(self, number: int) -> list[Part]:
        """The object in our world: Z up, front at azimuth 0, in the unit sphere."""
        ...


def find(name: str) -> Rules:
    """The rules that are called so, imported now."""
    module: Any = importlib.import_module(RULES[name])
    return module
