"""Scores of a mesh against the true one, after SyncDreamer's protocol (eval_mesh.py).

Both meshes are scaled so that the longest side of their bounding box is 1, and centred; or, as
SyncDreamer has it, whose results keep the frame that the truth was rendered in, both are moved by
what does so to the truth. What is upright and which way is front they must agree on (SyncDreamer
turns the truth by the picture's azimuth). Then

* Chamfer distance: (mean distance from A's points to B's nearest + the same from B to A) / 2, not
  squared, on points of the surface that is seen from 16 cameras (`surface_points.py`);
* F-score: the harmonic mean of precision and recall, the shares of those points within a distance
  of the other's, 0.02 unless told;
* volume IoU: of the insides by counting crossings, at the centres of 64^3 cubes over [-1, 1]^3;
* sealed IoU (not SyncDreamer's): the same of what is hidden from outside, which the many true
  meshes that are not closed have too (`visibility_occupancy.py`). On closed ones the two agree, and
  `closed_volume_iou` is the volume IoU where they do so in the truth, NaN elsewhere;
* normal consistency (not SyncDreamer's): the mean over both directions of |n . n'| of a point and
  the nearest point of the other surface. The sign is dropped: files of furniture wind their
  triangles either way.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from iso3d_jax.geometry.coverage import fragments
from iso3d_jax.metrics import surface_points
from iso3d_jax.metrics.surface_points import SIZE
from iso3d_jax.metrics.visibility_occupancy import visibility_occupancy

GRID = 64  # cubes along an edge of [-1, 1]^3
F_DISTANCE = 0.02
CLOSED = 0.8  # a mesh counts as closed if its insides by crossings and by sight overlap by so much
Frame = tuple[np.ndarray, float]  # a place and a length, to be the origin and 1
SIDE_METRICS = ("distance", "f_score", "normal_consistency")  # of the surface seen from a side


def box_frame(vertices: Float[np.ndarray, "N 3"]) -> Frame:
    """The centre of the bounding box, and its longest side.

    Raises:
      ValueError: no vertices, or all in one point.
    """
    vertices = np.asarray(vertices, np.float64)
    if not len(vertices) or not np.ptp(vertices, 0).max() > 0:
        raise ValueError("the mesh has no extent")
    low, high = vertices.min(0), vertices.max(0)
    return (low + high) / 2, float((high - low).max())


def normalise(
    vertices: Float[np.ndarray, "N 3"], frame: Frame | None = None
) -> Float[np.ndarray, "N 3"]:
    """Scaled to a bounding box whose longest side is 1, and centred; or moved as `frame` says.

    Raises:
      ValueError: no vertices, or all in one point.
    """
    centre, side = frame or box_frame(vertices)
    return (np.asarray(vertices, np.float64) - centre) / side


def chamfer(a: Float[np.ndarray, "N 3"], b: Float[np.ndarray, "M 3"]) -> float:
    """Mean of the two mean distances to the nearest point of the other set."""
    return float((KDTree(b).query(a)[0].mean() + KDTree(a).query(b)[0].mean()) / 2)


def f_score(
    result: Float[np.ndarray, "N 3"], truth: Float[np.ndarray, "M 3"], distance: float = F_DISTANCE
) -> float:
    """Harmonic mean of the shares of points that lie within `distance` of the other set."""
    precision = (KDTree(truth).query(result)[0] <= distance).mean()
    recall = (KDTree(result).query(truth)[0] <= distance).mean()
    return float(2 * precision * recall / max(precision + recall, 1e-12))


def normal_consistency(
    a: Float[np.ndarray, "N 3"],
    normals_a: Float[np.ndarray, "N 3"],
    b: Float[np.ndarray, "M 3"],
    normals_b: Float[np.ndarray, "M 3"],
) -> float:
    """Mean of |n . n'| over both directions; unit normals."""

    def one_way(x, n, y, m):
        nearest = KDTree(y).query(x)[1]
        return np.abs((n * m[nearest]).sum(-1)).mean()

    return float((one_way(a, normals_a, b, normals_b) + one_way(b, normals_b, a, normals_a)) / 2)


def split_parts(vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "T 3"]):
    """For each triangle the number of its connected part, and how many parts there are.

    Vertices in the same place (to 1e-6) are one.
    """
    _, place = np.unique(np.round(vertices, 6), axis=0, return_inverse=True)
    corners = place.reshape(-1)[faces]
    size = int(corners.max()) + 1
    rows = np.concatenate([corners[:, 0], corners[:, 1]])
    columns = np.concatenate([corners[:, 1], corners[:, 2]])
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), (size, size))
    label = connected_components(graph, directed=False)[1][corners[:, 0]]
    kinds, label = np.unique(label, return_inverse=True)
    return label, len(kinds)


def _crossings(triangles: Float[np.ndarray, "T 3 3"], axis: int, centres: np.ndarray):
    """Where lines parallel to an axis, through a grid of centres, cross triangles.

    Returns:
      Triangle, column (u, v indices) and coordinate along the axis of each crossing.
    """
    u, v = (axis + 1) % 3, (axis + 2) % 3
    step = centres[1] - centres[0]
    x, y = ((triangles[..., side] - centres[0]) / step for side in (u, v))
    parts = [
        (triangle, i, j, (weights * triangles[triangle, :, axis]).sum(-1))
        for triangle, i, j, weights in fragments(x, y, len(centres))
    ]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def occupancy(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "T 3"], grid: int = GRID
) -> Bool[np.ndarray, "G G G"]:
    """Which centres of the cubes of [-1, 1]^3 are inside.

    Inside a connected part is what most of the three axes' lines enter an odd number of times
    before; inside the mesh is what is inside any part, so that bodies may overlap. Parts that are
    not closed count where two axes agree.
    """
    # A shift that no mesh's grid shares: lines then do not run along edges.
    centres = (np.arange(grid) + 0.5) * 2 / grid - 1 + 3.7e-6
    vertices = np.asarray(vertices, np.float64)
    label, parts = split_parts(vertices, faces)
    triangles = vertices[faces]
    crossings = [_crossings(triangles, axis, centres) for axis in range(3)]
    inside = np.zeros((grid,) * 3, bool)
    for part in range(parts):
        votes = np.zeros((grid,) * 3, np.int8)
        for axis, (triangle, i, j, coordinate) in enumerate(crossings):
            mine = label[triangle] == part
            first = np.searchsorted(centres, coordinate[mine])  # the first centre beyond
            flips = np.zeros((grid, grid, grid + 1), np.int32)  # [u, v, along]
            np.add.at(flips, (i[mine], j[mine], first), 1)
            odd = np.cumsum(flips[..., :grid], -1) % 2
            votes += np.moveaxis(odd, (0, 1, 2), ((axis + 1) % 3, (axis + 2) % 3, axis)).astype(
                np.int8
            )
        inside |= votes >= 2
    return inside


def volume_iou(a: Bool[np.ndarray, "G G G"], b: Bool[np.ndarray, "G G G"]) -> float:
    """Intersection over union; NaN where neither has an inside."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else float("nan")


@dataclasses.dataclass
class Measured:
    """What the scores need of a mesh: the points that are seen, their normals, the insides."""

    points: Float[np.ndarray, "P 3"]
    normals: Float[np.ndarray, "P 3"]
    inside: Bool[np.ndarray, "G G G"]
    visibility_occupancy: Bool[np.ndarray, "G G G"]
    sides: list[surface_points.Surface]  # what each camera sees of it, thinned


def measure(mesh: trimesh.Trimesh, size: int = SIZE, frame: Frame | None = None) -> Measured:
    """Scales, centres and samples a mesh (Z up).

    Args:
      frame: another mesh's `box_frame`, to leave place and size beside it; None takes its own.
      size: of the depth pictures that the points come from, pixels.

    Raises:
      ValueError: a mesh without extent, or with nothing to see.
    """
    vertices, faces = normalise(mesh.vertices, frame), np.asarray(mesh.faces)
    return measure_as_is(vertices, faces, size)


def measure_as_is(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "T 3"], size: int = SIZE
) -> Measured:
    """`measure` of a mesh that is scaled and centred already."""
    sides = surface_points.seen(vertices, faces, size)
    return Measured(
        *surface_points.together(sides),
        inside=occupancy(vertices, faces),
        visibility_occupancy=visibility_occupancy(vertices, faces, GRID),
        sides=[surface_points.thinned(*s) for s in sides],
    )


def compare(result: Measured, truth: Measured) -> dict[str, float]:
    """All scores of one mesh against the true one, both turned alike (Z up, front +x)."""
    volume = volume_iou(result.inside, truth.inside)
    closed = volume_iou(truth.inside, truth.visibility_occupancy) >= CLOSED
    return {
        "chamfer": chamfer(result.points, truth.points),
        "f_score": f_score(result.points, truth.points),
        "volume_iou": volume,
        "closed_volume_iou": volume if closed else float("nan"),
        "sealed_iou": volume_iou(result.visibility_occupancy, truth.visibility_occupancy),
        "normal_consistency": normal_consistency(
            result.points, result.normals, truth.points, truth.normals
        ),
    }


def compare_sides(result: Measured, truth: Measured) -> dict[str, Float[np.ndarray, " 16"]]:
    """Scores of the surface that each camera sees, 22.5 degrees of azimuth apart, the first at +X.

    The points that the camera sees of one mesh are held to all visible points of the other, both
    ways: `distance` is the mean of the two mean distances, `f_score` and `normal_consistency` as
    in `compare`. NaN where a camera sees nothing of one of them.
    """
    trees = KDTree(result.points), KDTree(truth.points)
    scores = {key: np.full(surface_points.VIEWS, np.nan) for key in SIDE_METRICS}
    for k, (mine, theirs) in enumerate(zip(result.sides, truth.sides, strict=True)):
        if not len(mine[0]) or not len(theirs[0]):
            continue
        (off, near), (back, far) = trees[1].query(mine[0]), trees[0].query(theirs[0])
        precision, recall = (off <= F_DISTANCE).mean(), (back <= F_DISTANCE).mean()
        scores["distance"][k] = (off.mean() + back.mean()) / 2
        scores["f_score"][k] = 2 * precision * recall / max(precision + recall, 1e-12)
        scores["normal_consistency"][k] = (
            np.abs((mine[1] * truth.normals[near]).sum(-1)).mean()
            + np.abs((theirs[1] * result.normals[far]).sum(-1)).mean()
        ) / 2
    return scores
