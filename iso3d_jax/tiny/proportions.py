"""New proportions for the same meshes, so that few objects become more."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from iso3d_jax.data.meshes import Part, fitted
from iso3d_jax.data.names import hash_name


def change(parts: list[Part], name: str, seed: int, stretch: float, warp: float) -> list[Part]:
    """An object's parts stretched, then warped, as far as two logarithms say (0: not at all)."""
    if stretch:
        parts = stretched(parts, draw_proportions(name, seed, stretch))
    if warp:
        parts = warped(parts, draw_slopes(name, seed, warp))
    return parts


def draw_proportions(name: str, seed: int, stretch: float) -> np.ndarray:
    """Factors along x, y and z, with logarithms in [-stretch, stretch]; of name and seed alone."""
    rng = np.random.default_rng([seed, hash_name(name), 1])
    return np.exp(rng.uniform(-stretch, stretch, 3))


def draw_slopes(name: str, seed: int, warp: float) -> np.ndarray:
    """[3, 6] factors of six pieces of each axis, logarithms in [-warp, warp]; left as right."""
    rng = np.random.default_rng([seed, hash_name(name), 2])
    slopes = np.exp(rng.uniform(-warp, warp, (3, 6)))
    slopes[1, 3:] = slopes[1, 2::-1]
    return slopes


def stretched(parts: list[Part], scale: Float[np.ndarray, "3"]) -> list[Part]:
    """Parts made longer and shorter along x, y and z, scaled into the unit sphere again."""

    def normals(of: Part):
        n = of.normals / scale
        return n / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-12)

    return fitted(
        dataclasses.replace(p, positions=p.positions * scale, normals=normals(p)) for p in parts
    )


def warped(parts: list[Part], slopes: Float[np.ndarray, "3 K"]) -> list[Part]:
    """Parts whose axes are cut into K equal pieces, each made longer or shorter by its own factor.

    A chair's legs, seat and back change apart from one another. Vertices move; an edge between two
    of them stays straight. The result is scaled into the unit sphere again.
    """
    pieces = slopes.shape[1]
    cuts = np.linspace(-1.0, 1.0, pieces + 1)
    places = np.concatenate([np.zeros((3, 1)), np.cumsum(slopes, 1)], 1)

    def moved(part: Part) -> Part:
        at = [np.interp(part.positions[..., i], cuts, places[i]) for i in range(3)]
        piece = np.clip(((part.positions + 1.0) / 2.0 * pieces).astype(int), 0, pieces - 1)
        n = part.normals / slopes[np.arange(3), piece]
        n = n / np.maximum(np.linalg.norm(n, axis=-1, keepdims=True), 1e-12)
        return dataclasses.replace(part, positions=np.stack(at, -1), normals=n)

    return fitted(moved(part) for part in parts)
