"""Meshes a surface anew with even quads or triangles (Instant Meshes, Jakob et al. 2015).

The library of the extra `remesh` is C++ that speaks to standard output and may crash on meshes that
it does not like, so it works in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from iso3d_jax.core import extras
from iso3d_jax.core.arrays_file import read_arrays
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.progress import Report, silent

KINDS = ("quads", "triangles")
SECONDS = 600.0  # after which it is given up; 100,000 faces take some ten
AHEAD = 8  # times as many triangles as faces that are asked for; more are simplified before


class Remeshed(NamedTuple):
    """A surface of polygons.

    Attributes:
      mesh: its triangles; those of a quad follow each other, (a, b, c) and (a, c, d).
      quads: how many of its polygons are quads; they come first.
      open_edges: edges that do not lie between exactly two polygons; none in a closed surface.
    """

    mesh: trimesh.Trimesh
    quads: int
    open_edges: int


_PROGRAM = """
import sys
import numpy as np
import pynanoinstantmeshes
given = np.load(sys.argv[1])
quads = bool(given["quads"])
vertices, faces = pynanoinstantmeshes.remesh(
    given["vertices"], given["faces"], -1, posy=4 if quads else 3, rosy=4 if quads else 6,
    face_count=int(given["count"]), deterministic=True,
)
np.savez(sys.argv[2], vertices=vertices, faces=faces)
"""


def _run(vertices: np.ndarray, faces: np.ndarray, quads: bool, count: int):
    """What the library makes of a mesh: vertices [V, 3] and polygons [F, 3 or 4].

    Raises:
      UserError: it crashed, or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        np.savez(given, vertices=vertices, faces=faces, quads=quads, count=count)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        reason = f"it took more than {SECONDS:.0f} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [sys.executable, "-c", _PROGRAM, str(given), str(made)], env=environment,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=SECONDS, check=False,
            )  # fmt: skip
            reason = f"its process ended with status {done.returncode}"
            if not done.returncode and made.is_file():
                found = read_arrays(made, "try again", ["vertices", "faces"])
                return found["vertices"].astype(np.float64), found["faces"].astype(np.int64)
        raise UserError(
            f"remeshing failed ({reason}): give another number of faces, or leave remesh out"
        )


def check(kind: str) -> None:
    """Refuses what cannot be done before anything is.

    Raises:
      UserError: another kind than `KINDS`, or the package is not installed.
    """
    if kind not in KINDS:
        raise UserError(f"remesh is {' or '.join(KINDS)}, not {kind!r}")
    extras.require("pynanoinstantmeshes")


def remesh(mesh: trimesh.Trimesh, kind: str, faces: int, report: Report = silent) -> Remeshed:
    """A surface of about `faces` polygons of one kind, as even in size as it can be.

    Args:
      mesh: closed, of triangles that are smaller than those that are asked for.
      kind: 'quads' or 'triangles'.
      faces: how many; the result has a few percent more or fewer.
      report: told what is being done.

    Raises:
      UserError: another kind, the package is not installed, or it found no surface.
    """
    check(kind)
    report(f"remeshing {len(mesh.faces)} faces to {faces} {kind}", 0, 0)
    quads = kind == "quads"
    vertices, polygons = _run(
        np.ascontiguousarray(mesh.vertices, np.float32),
        np.ascontiguousarray(mesh.faces, np.uint32), quads,
        faces // 4 if quads else faces,  # so that all have four sides it makes four of each quad
    )  # fmt: skip
    if not len(polygons) or not np.isfinite(vertices).all():
        raise UserError("remeshing found no surface: give more faces, or leave remesh out")
    return polygons_to_triangles(_snap(vertices, mesh), polygons)


def _snap(points: Float[np.ndarray, "N 3"], mesh: trimesh.Trimesh) -> Float[np.ndarray, "N 3"]:
    """Points near a surface moved onto it: the library's quads are cut in four, and flat."""
    nearest = KDTree(mesh.vertices).query(points)[1]
    normals = np.asarray(mesh.vertex_normals)[nearest]
    above = np.sum((points - mesh.vertices[nearest]) * normals, -1, keepdims=True)
    return points - above * normals


def polygons_to_triangles(
    vertices: Float[np.ndarray, "V 3"], polygons: Int[np.ndarray, "F K"]
) -> Remeshed:
    """Cuts polygons of four corners along their shorter diagonals.

    A polygon of four that names a corner twice is a triangle; one with fewer corners is none.
    """
    after = np.roll(polygons, -1, 1)
    edges = np.sort(np.stack([polygons, after], -1), -1).reshape(-1, 2)
    edges = edges[edges[:, 0] != edges[:, 1]]
    _, uses = np.unique(edges, axis=0, return_counts=True)
    if polygons.shape[1] == 4:
        same = polygons == after
        quads = polygons[~same.any(1)]
        rest = [row[row != np.roll(row, -1)] for row in polygons[same.any(1)]]
        triangles = np.array([row for row in rest if len(row) == 3], np.int64).reshape(-1, 3)
        a, b, c, d = np.moveaxis(vertices[quads], 1, 0)
        other = np.linalg.norm(b - d, axis=-1) < np.linalg.norm(a - c, axis=-1)
        quads = np.where(other[:, None], np.roll(quads, -1, 1), quads)
        halves = quads[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3)
        faces, count = np.concatenate([halves, triangles]), len(quads)
    else:
        faces, count = polygons, 0
    one, two, three = np.moveaxis(vertices[faces], 1, 0)
    if np.sum(one * np.cross(two, three)) < 0:  # six times the volume
        faces = turn(faces, count)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    return Remeshed(mesh, count, int(np.sum(uses != 2)))


def turn(faces: Int[np.ndarray, "F 3"], quads: int) -> Int[np.ndarray, "F 3"]:
    """The other side of triangles; of a quad (a, b, c), (a, c, d) becomes (a, d, c), (a, c, b)."""
    turned = faces[:, [0, 2, 1]]
    turned[: 2 * quads] = turned[: 2 * quads].reshape(-1, 2, 3)[:, ::-1].reshape(-1, 3)
    return turned
