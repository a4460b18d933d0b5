"""The meshes and poses of the game 0 A.D. (`.pmd` and `.psa`, made from Collada when it is packed).

Both are little-endian, a vertex or bone a record. Coordinates are left-handed, Y-up, the front
towards +z; what is returned is right-handed: x is negated, and so is the order of corners.
The layouts are those of `ModelDef.cpp` and `SkeletonAnimManager.cpp` of the game's sources.
"""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from iso3d_jax.data.meshes import BadMesh, check_count

NO_BONE = 0xFF  # of a point that stands still, or of an influence that is not there
_MIRROR = np.array([-1.0, 1.0, 1.0])
_BONE = np.dtype([("position", "<f4", 3), ("rotation", "<f4", 4)])
_MOST = 1_000_000  # of vertices, faces or anything else that a file counts


@dataclasses.dataclass(frozen=True)
class Pmd:
    """A mesh in the pose that it was bound in.

    Attributes:
      positions, normals: one a vertex.
      uv: texture coordinates, origin at the lower left.
      faces: indices of vertices, counter-clockwise seen from outside.
      bones: the frame of each bone; none for what does not move.
      influences, weights: up to four bones a vertex, `NO_BONE` where there are fewer.
      points: where other objects are attached: name to (frame, number of its bone or `NO_BONE`).
    """

    positions: Float[np.ndarray, "V 3"]
    normals: Float[np.ndarray, "V 3"]
    uv: Float[np.ndarray, "V 2"]
    faces: Int[np.ndarray, "F 3"]
    bones: Float[np.ndarray, "B 4 4"]
    influences: Int[np.ndarray, "V 4"]
    weights: Float[np.ndarray, "V 4"]
    points: dict[str, tuple[Float[np.ndarray, "4 4"], int]]

    def posed(self, bones: Float[np.ndarray, "B 4 4"] | None) -> Pmd:
        """The same mesh with its bones elsewhere, by linear blending of their motions.

        Args:
          bones: where each bone is now; None, or another skeleton's number, changes nothing.
        """
        if bones is None or len(bones) != len(self.bones) or not len(bones):
            return self
        motions = bones @ np.linalg.inv(self.bones)
        known = np.where(self.influences < len(bones), self.influences, 0)
        weights = np.where(self.influences < len(bones), self.weights, 0.0)
        total = weights.sum(-1, keepdims=True)
        blend = np.einsum("vk,vkij->vij", weights / np.where(total > 0, total, 1), motions[known])
        blend[total[:, 0] <= 0] = np.eye(4)
        positions = np.einsum("vij,vj->vi", blend[:, :3, :3], self.positions) + blend[:, :3, 3]
        normals = np.einsum("vij,vj->vi", blend[:, :3, :3], self.normals)
        return dataclasses.replace(self, positions=positions, normals=normals, bones=bones)

    def attachment(self, name: str) -> Float[np.ndarray, "4 4"] | None:
        """The frame of a point of this name in this pose, or None."""
        if name not in self.points:
            return None
        frame, bone = self.points[name]
        return self.bones[bone] @ frame if bone < len(self.bones) else frame


class _Reader:
    """Takes records off the front of a file, none that it does not have."""

    def __init__(self, data: bytes, magic: bytes):
        if data[:4] != magic or len(data) < 12:
            raise BadMesh(f"not a {magic.decode()} file")
        self.version, size = struct.unpack_from("<II", data, 4)
        self.data, self.at = data, 12
        if size > len(data) - 12:
            raise BadMesh("the file is cut off")

    def count(self) -> int:
        (number,) = self.records(1, np.dtype("<u4"))
        if number > _MOST:
            raise BadMesh(f"it says it has {number:,} of something, and the most is {_MOST:,}")
        return int(number)

    def records(self, number: int, dtype: np.dtype) -> np.ndarray:
        if number * dtype.itemsize > len(self.data) - self.at:
            raise BadMesh("the file is cut off")
        found = np.frombuffer(self.data, dtype, number, self.at)
        self.at += number * dtype.itemsize
        return found

    def text(self) -> str:
        return self.records(self.count(), np.dtype("u1")).tobytes().decode("latin-1")


def frames(bones: np.ndarray) -> Float[np.ndarray, "N 4 4"]:
    """Right-handed 4x4 frames of records with a position and a rotation (quaternion x, y, z, w)."""
    quaternions = np.asarray(bones["rotation"], np.float64)
    if not (np.isfinite(quaternions).all() and np.isfinite(bones["position"]).all()):
        raise BadMesh("bones that are not finite")
    still = np.all(quaternions == 0, -1, keepdims=True)
    out = np.zeros((len(quaternions), 4, 4))
    turns = Rotation.from_quat(np.where(still, (0.0, 0.0, 0.0, 1.0), quaternions))
    out[:, :3, :3] = turns.as_matrix()
    out[:, :3, :3] *= _MIRROR[:, None] * _MIRROR  # the mirror on both sides of a rotation
    out[:, :3, 3] = bones["position"] * _MIRROR
    out[:, 3, 3] = 1.0
    return out


def read_pmd(data: bytes) -> Pmd:
    """Reads a mesh of version 3 or 4.

    Raises:
      BadMesh: another version, damaged, or without triangles.
    """
    file = _Reader(data, b"PSMD")
    if file.version not in (3, 4):
        raise BadMesh(f"a PMD mesh of version {file.version}; versions 3 and 4 are read")
    vertices = file.count()
    sets = file.count() if file.version >= 4 else 1
    if not 1 <= sets <= 8:
        raise BadMesh(f"a PMD mesh with {sets} sets of texture coordinates")
    vertex = np.dtype([
        ("position", "<f4", 3), ("normal", "<f4", 3), ("uv", "<f4", (sets, 2)), ("bone", "u1", 4),
        ("weight", "<f4", 4),
    ])  # fmt: skip
    points = file.records(vertices, vertex)
    faces = file.records(file.count(), np.dtype(("<u2", 3))).astype(np.int64)
    bones = frames(file.records(file.count(), _BONE))
    attached = {}
    for _ in range(file.count()):
        name = file.text()
        frame = frames(file.records(1, _BONE))[0]
        attached[name] = frame, int(file.records(1, np.dtype("u1"))[0])
    if not len(faces):
        raise BadMesh("the file has no triangles")
    check_count(len(faces))
    if faces.max() >= vertices:
        raise BadMesh("a face names a vertex that is not there")
    if not np.isfinite(points["position"]).all():
        raise BadMesh("coordinates that are not finite")
    return Pmd(
        points["position"] * _MIRROR,
        np.nan_to_num(points["normal"]) * _MIRROR,
        np.asarray(points["uv"][:, 0], np.float64),
        faces[:, ::-1],
        bones,
        points["bone"].astype(np.int64),
        np.nan_to_num(points["weight"]).astype(np.float64),
        attached,
    )


def read_pose(data: bytes) -> Float[np.ndarray, "B 4 4"]:
    """The first frame of an animation.

    Raises:
      BadMesh: damaged, or without a frame.
    """
    file = _Reader(data, b"PSSA")
    file.text()  # its name
    file.records(1, np.dtype("<f4"))  # time of a frame
    bones, steps = file.count(), file.count()
    if not steps:
        raise BadMesh("an animation without frames")
    return frames(file.records(bones, _BONE))
