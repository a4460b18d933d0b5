"""Triangle meshes with materials, as the renderer draws them.

The readers (`obj.py`, `gltf.py`, `plain_meshes.py`) give coordinates as those of the file: turning
Y-up into our Z-up world is `to_world`.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, Int, UInt8

from iso3d_jax.core.errors import shorten

# OBJ and glTF are Y-up with the front towards +z. Our world is Z-up with the front towards +x
# (azimuth 0): x_world = z_file, y_world = x_file, z_world = y_file. This is the usual Y-up to Z-up
# turn (front at azimuth -90) followed by a quarter turn about z.
WORLD_FROM_Y_UP = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
SMOOTH_ANGLE_COSINE = 0.64  # normals are averaged over faces that meet at less than 50 degrees
LARGEST_FAN = 2000  # a vertex of more faces keeps their own normals
PAIRS_OF_FACES = 20_000_000  # compared for smooth normals, and 64 a corner beyond that
MOST_TRIANGLES = 2_000_000  # of one object: some 1.5 GB on the way to the renderer
MOST_PARTS = 5_000  # each is drawn by itself, for every view
GREY = (0.8, 0.8, 0.8)  # of what has no material in formats that do not say

Note = Callable[[str], None]  # is told what an object lacks that is rendered all the same


class BadMesh(ValueError):
    """A mesh that cannot be rendered; the message is the reason, in one line that can be printed.

    Reasons quote what files of strangers say.
    """

    def __init__(self, reason: str):
        super().__init__(shorten(reason, 500))


@dataclasses.dataclass
class Glow:
    """Light that a part gives off, added to what it reflects: glTF's emissive factor and texture.

    Attributes:
      colour: linear light.
      uv, texture, wrap, nearest: as those of a part.
    """

    colour: tuple[float, float, float]
    uv: Float[np.ndarray, "T 3 2"] | None = None
    texture: UInt8[np.ndarray, "h w 4"] | None = None
    wrap: tuple[str, str] = ("repeat", "repeat")
    nearest: bool = False


@dataclasses.dataclass
class Part:
    """Triangles of one material, three corners each, nothing shared.

    Its colour is the product of `colour`, `texture` and `tint`, each where it is there.

    Attributes:
      positions: corners.
      normals: unit shading normals, one a corner.
      uv: texture coordinates, origin at the lower left; zeros without a texture.
      colour: sRGB colour of the material in [0, 1].
      opacity: 1 opaque, 0 invisible.
      texture: sRGB picture with alpha, row 0 at the top, or None.
      tint: a colour and an opacity for each corner: linear light if `linear`, else sRGB.
      linear: colours are multiplied as linear light, as glTF says, not as sRGB values.
      alpha: "opaque" (all of it), "mask" (all or nothing at `cutoff`), "blend", or "auto": as the
        texture's own alpha looks.
      cutoff: of "mask".
      wrap: what lies beyond the texture along u and v: "repeat", "mirror" or "clamp".
      nearest: texels are seen as squares from near by.
      two_sided: the side from which corners run clockwise is drawn, too.
      unlit: the colour needs no light.
      glow: light of its own.
    """

    positions: Float[np.ndarray, "T 3 3"]
    normals: Float[np.ndarray, "T 3 3"]
    uv: Float[np.ndarray, "T 3 2"]
    colour: tuple[float, float, float] = GREY
    opacity: float = 1.0
    texture: UInt8[np.ndarray, "h w 4"] | None = None
    tint: Float[np.ndarray, "T 3 4"] | None = None
    linear: bool = False
    alpha: str = "auto"
    cutoff: float = 0.5
    wrap: tuple[str, str] = ("repeat", "repeat")
    nearest: bool = False
    two_sided: bool = True
    unlit: bool = False
    glow: Glow | None = None


def shading_normals(
    positions: Float[np.ndarray, "T 3 3"],
) -> Float[np.ndarray, "T 3 3"]:
    """Corner normals: the area-weighted mean over the faces at the same point that meet this face
    at less than 50 degrees, so that curved surfaces are smooth and creases are sharp.

    Args:
      positions: corners of the triangles; corners at the same coordinates count as one vertex.
    """
    cross = np.cross(positions[:, 1] - positions[:, 0], positions[:, 2] - positions[:, 0])
    face = cross / np.maximum(np.linalg.norm(cross, axis=-1, keepdims=True), 1e-20)
    points = positions.reshape(-1, 3)
    order = np.lexsort(points.T[::-1])  # corners, those of a vertex together, in their order
    new = (points[order[1:]] != points[order[:-1]]).any(-1)
    degrees = np.diff(np.flatnonzero(np.concatenate([[True], new, [True]])))
    starts = np.cumsum(degrees) - degrees
    out = np.repeat(face, 3, axis=0)  # [3T, 3]
    largest = _largest_fan(degrees)
    for degree in np.unique(degrees):
        if degree < 2 or degree > largest:
            continue
        fans = starts[degrees == degree]
        for first in range(0, len(fans), max(1, 4_000_000 // degree**2)):
            chunk = fans[first : first + max(1, 4_000_000 // degree**2)]
            corners = order[chunk[:, None] + np.arange(degree)]  # [G, degree]
            f = face[corners // 3]
            near = np.einsum("gik,gjk->gij", f, f) > SMOOTH_ANGLE_COSINE
            out[corners] = np.einsum("gij,gjk->gik", near.astype(float), cross[corners // 3])
    length = np.linalg.norm(out, axis=-1, keepdims=True)
    out = np.where(length > 1e-20, out / np.maximum(length, 1e-20), np.repeat(face, 3, axis=0))
    return out.reshape(-1, 3, 3)


def _largest_fan(degrees: Int[np.ndarray, "V"]) -> int:
    """The most faces of a vertex whose normals are compared in pairs.

    `LARGEST_FAN`, or fewer, such that the pairs of all vertices are not many more than corners.
    """
    each = np.sort(degrees)
    pairs = np.cumsum(each.astype(np.int64) ** 2)
    allowed = np.searchsorted(pairs, PAIRS_OF_FACES + 64 * int(degrees.sum()), side="right")
    return LARGEST_FAN if allowed == len(each) else min(LARGEST_FAN, int(each[allowed]) - 1)


def face_normals(positions: Float[np.ndarray, "T 3 3"]) -> Float[np.ndarray, "T 3 3"]:
    """Flat shading: each corner has its triangle's normal; zeros where that has no area."""
    cross = np.cross(positions[:, 1] - positions[:, 0], positions[:, 2] - positions[:, 0])
    length = np.linalg.norm(cross, axis=-1, keepdims=True)
    face = np.where(length > 0, cross / np.where(length > 0, length, 1), 0.0)
    return np.repeat(face[:, None], 3, axis=1)


def finite_uv(uv) -> Float[np.ndarray, "*T 2"]:
    """Texture coordinates that a renderer can count with; 0 for what is no number."""
    return np.clip(np.nan_to_num(np.asarray(uv, np.float64)), -1e6, 1e6)


def check_count(triangles: int) -> None:
    """Refuses an object of more triangles than can be held.

    Raises:
      BadMesh: more than `MOST_TRIANGLES`.
    """
    if triangles > MOST_TRIANGLES:
        raise BadMesh(
            f"{triangles:,} triangles, and the most is {MOST_TRIANGLES:,}: simplify it first"
        )


def to_world(parts: list[Part], rotation: np.ndarray | None = None) -> list[Part]:
    """Turns Y-up parts into our Z-up world, front at azimuth 0, scaled into the unit sphere.

    Args:
      parts: as read from the file.
      rotation: 3x3, applied to the file's coordinates first (`modelRotation` of a catalogue).

    Returns:
      New parts; the centre of the bounding box is the origin, the farthest vertex has radius 1.

    Raises:
      BadMesh: all vertices in one point.
    """
    turn = WORLD_FROM_Y_UP if rotation is None else WORLD_FROM_Y_UP @ np.asarray(rotation)
    return fitted(
        dataclasses.replace(p, positions=p.positions @ turn.T, normals=p.normals @ turn.T)
        for p in parts
    )


def fitted(parts: Iterable[Part]) -> list[Part]:
    """Parts moved and scaled into the unit sphere, as `to_world` says."""
    parts = list(parts)
    points = np.concatenate([p.positions.reshape(-1, 3) for p in parts])
    if not np.abs(points).max() < 1e30:
        raise BadMesh("coordinates that are not finite")
    centre = (points.min(0) + points.max(0)) / 2
    radius = np.linalg.norm(points - centre, axis=-1).max()
    if not radius > 1e-9:
        raise BadMesh("the mesh has no extent")
    return [dataclasses.replace(p, positions=(p.positions - centre) / radius) for p in parts]
