"""Furniture, vessels, plants, figures and vehicles, drawn by chance: training objects without end.

A few hundred real meshes do not teach an image tower what a chair's legs may be like. Objects made
by rules are simpler than real ones but differ in every proportion, so that thin parts, hollow ones
and asymmetric ones are seen in thousands of ways (LRM-Zero, arXiv 2406.09371, goes as far as to
train on nothing else). `kinds.py` names the rules, `solids.py` what they are put together from.
"""

from __future__ import annotations

import numpy as np

from iso3d_jax.data.meshes import Part, fitted, shading_normals
from iso3d_jax.tiny.procedural.kinds import KINDS
from iso3d_jax.tiny.procedural.makers import Maker

__all__ = ["KINDS", "choose_kind", "make"]


def choose_kind(number: int) -> str:
    """Which kind of object has this number; kinds take turns by their weight."""
    weights = np.array([weight for _, weight in KINDS.values()])
    share = np.random.default_rng([number, 0]).random() * weights.sum()
    return list(KINDS)[int(np.searchsorted(np.cumsum(weights), share, side="right"))]


def make(number: int) -> list[Part]:
    """The object of this number, in our world: Z up, front at azimuth 0, in the unit sphere."""
    maker = Maker(np.random.default_rng([number, 1]))
    KINDS[choose_kind(number)][0](maker)
    return fitted(
        Part(triangles, shading_normals(triangles), np.zeros((*triangles.shape[:2], 2)), colour)
        for triangles, colour in maker.solids
    )
