"""Solids that procedural objects are put together from: triangles [T, 3, 3], Z up."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Triangles = Float[np.ndarray, "T 3 3"]


def _grid(points: Float[np.ndarray, "R C 3"], wrap: bool) -> Triangles:
    """Two triangles for each cell of a grid of points; `wrap` joins last and first column."""
    right = np.roll(points, -1, 1) if wrap else points[:, 1:]
    left = points if wrap else points[:, :-1]
    a, b, c, d = left[:-1], right[:-1], right[1:], left[1:]
    both = np.stack([np.stack([a, b, c], -2), np.stack([a, c, d], -2)], 2).reshape(-1, 3, 3)
    area = np.linalg.norm(np.cross(both[:, 1] - both[:, 0], both[:, 2] - both[:, 0]), axis=-1)
    return both[area > 1e-12]


def box(centre, size) -> Triangles:
    """A box."""
    x, y, z = np.asarray(size, float) / 2
    ring = np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]])
    low, high = np.array([0, 0, -z]), np.array([0, 0, z])
    rows = np.stack([0 * ring + low, ring + low, ring + high, 0 * ring + high])
    return _grid(rows, True) + np.asarray(centre, float)


def lathe(profile, centre=(0.0, 0.0, 0.0), segments: int = 20, flat: float = 1.0) -> Triangles:
    """A solid of revolution about z.

    Args:
      profile: (radius, height) pairs; a radius of 0 closes an end.
      flat: scales y, for ovals.
    """
    r, z = np.asarray(profile, float).T
    angle = np.arange(segments) * 2 * np.pi / segments
    across = np.stack([np.cos(angle), flat * np.sin(angle)], -1)
    points = np.concatenate(
        [r[:, None, None] * across, np.repeat(z[:, None, None], segments, 1)], -1
    )
    return _grid(points, True) + np.asarray(centre, float)


def rod(start, end, radius: float, end_radius: float | None = None, sides: int = 8) -> Triangles:
    """A straight rod between two points, thinner or thicker at its end, closed."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = end - start
    length = np.linalg.norm(along)
    along = along / max(length, 1e-9)
    side = np.cross(along, [0, 0, 1] if abs(along[2]) < 0.9 else [1, 0, 0])
    side /= np.linalg.norm(side)
    tip = radius if end_radius is None else end_radius
    turned = lathe([(0, 0), (radius, 0), (tip, length), (0, length)], segments=sides)
    return turned @ np.stack([side, np.cross(along, side), along]) + start


def path(points, radius: float, sides: int = 6) -> Triangles:
    """Rods from point to point."""
    return np.concatenate(
        [rod(a, b, radius, sides=sides) for a, b in zip(points, points[1:], strict=False)]
    )


def blob(centre, radii, power: float = 1.0, segments: int = 16) -> Triangles:
    """An ellipsoid; a power below 1 makes it a rounded box, 0.2 nearly a box."""
    rise = np.linspace(-np.pi / 2, np.pi / 2, segments // 2 + 1)[:, None]
    turn = np.arange(segments)[None] * 2 * np.pi / segments

    def bent(x):
        x = np.where(np.abs(x) < 1e-9, 0.0, x)
        return np.sign(x) * np.abs(x) ** power

    points = np.stack(
        np.broadcast_arrays(
            bent(np.cos(rise)) * bent(np.cos(turn)), bent(np.cos(rise)) * bent(np.sin(turn)),
            bent(np.sin(rise)),
        ),
        -1,
    )  # fmt: skip
    return _grid(points * np.asarray(radii, float), True) + np.asarray(centre, float)


def sheet(profile, width: float, thickness: float, bulge: float = 0.0) -> Triangles:
    """A bent board: a line in the x-z plane, carried along y.

    Args:
      profile: (x, z) pairs.
      bulge: the middle of the width lies so far along -x from the edges.
    """
    line = np.asarray(profile, float)
    tangent = np.gradient(line, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True).clip(1e-9)
    y = np.linspace(-0.5, 0.5, 7)
    back = bulge * (4 * y**2 - 1)
    faces = []
    for offset in (thickness / 2, -thickness / 2):
        edge = line + offset * normal
        x = edge[:, None, 0] + back
        z = np.repeat(edge[:, None, 1], len(y), 1)
        faces.append(np.stack([x, np.broadcast_to(y * width, x.shape), z], -1))
    top, bottom = faces
    rim = [
        np.stack([a, b])
        for a, b in (
            (top[0], bottom[0]), (top[-1], bottom[-1]),
            (top[:, 0], bottom[:, 0]), (top[:, -1], bottom[:, -1]),
        )
    ]  # fmt: skip
    return np.concatenate([_grid(g, False) for g in (top, bottom, *rim)])


def turned(triangles: Triangles, degrees: float, about=(0.0, 0.0, 0.0), axis: int = 2) -> Triangles:
    """Turned about a line through a point, parallel to an axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
    return (triangles - np.asarray(about)) @ turn.T + np.asarray(about)
