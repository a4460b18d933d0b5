"""Scores of a folder of meshes against the true ones (`shapes.py` has the protocol).

Results: DIR/NAME/mesh.glb (what `reconstruct` writes), or DIR/NAME.glb, .obj or .ply.
Truth: DIR/NAME.glb, .obj or .ply, or Google Scanned Objects' layout (`gso.py`).

GLB and OBJ are Y up with the picture's side at +Z, PLY is Z up with the picture's side at +X, as
this package writes them; Google's model.obj are Z up, and where a file `turns.json` in the folder
of the truth has {"NAME": degrees}, that object is turned by so much, counter-clockwise seen from
above, to bring the picture's side to +X.

Baselines in the same table: a ball, and the true mesh of another object of the list.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import trimesh

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.progress import Progress
from iso3d_jax.evaluation import gso
from iso3d_jax.evaluation.scores import SHAPE_METRICS
from iso3d_jax.metrics import shapes, surface_points
from iso3d_jax.metrics.isotropy import isotropy

FRAMES = ("box", "truth")
SUFFIXES = (".glb", ".gltf", ".obj", ".ply")


def load_mesh(path: Path, turn_deg: float = 0.0, z_up: bool | None = None) -> trimesh.Trimesh:
    """A mesh file in the scene's axes: Z up, the picture's side at +X.

    Args:
      turn_deg: turned by so much about the vertical.
      z_up: what the file is; None goes by its suffix.

    Raises:
      UserError: it cannot be read or has no triangles.
    """
    try:
        mesh = trimesh.load_mesh(path, process=False)
    except Exception as error:  # trimesh raises all sorts on bad files
        raise UserError(f"the mesh {path} cannot be read: {error}") from None
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        raise UserError(f"the mesh {path} has no triangles")
    vertices = np.asarray(mesh.vertices, np.float64)
    if not (path.suffix.lower() == ".ply" if z_up is None else z_up):
        vertices = vertices[:, [2, 0, 1]]  # glTF's (Z, X, Y)
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    vertices = vertices @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    return trimesh.Trimesh(vertices, mesh.faces, process=False)


def find_results(folder: str | Path) -> dict[str, Path]:
    """Meshes by name.

    Raises:
      UserError: no such folder, or no mesh in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--runs {folder}: there is no such folder")
    found = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES}
    found |= {p.parent.name: p for p in sorted(folder.glob("*/mesh.glb"))}
    if not found:
        raise UserError(f"--runs {folder} holds no meshes: each is NAME/mesh.glb or NAME.glb")
    return dict(sorted(found.items()))


def load_truth(folder: str | Path, name: str) -> trimesh.Trimesh | None:
    """The true mesh of an object, or None where there is none."""
    folder = Path(folder)
    turns = folder / "turns.json"
    turn = json.loads(turns.read_text()).get(name, 0.0) if turns.is_file() else 0.0
    for suffix in SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return load_mesh(folder / f"{name}{suffix}", turn)
    scanned = gso.mesh_file(folder, name)
    return load_mesh(scanned, turn, z_up=True) if scanned else None


def score_runs(
    runs: str | Path, meshes: str | Path, size: int = shapes.SIZE, frame: str = "box"
) -> tuple[dict[str, dict], list[dict], dict[str, dict]]:
    """Mean scores of the results and of the baselines, those of each object, and isotropy.

    A score that is not known is None: a volume without insides, `closed_volume_iou` of an object
    whose true mesh is not closed. Means are over the objects that have it.

    Isotropy is `isotropy.isotropy`'s figures by row and metric of `shapes.SIDE_METRICS`, of the
    surface that is seen from each side. Of the distance, smaller is better.

    Args:
      frame: "box", each mesh scaled and centred by its own bounding box; or "truth", all by the
        true mesh's, so that a result of the wrong size or in the wrong place scores less.

    Raises:
      UserError: a folder that is not there, or a result without truth.
    """
    results = find_results(runs)
    if frame not in FRAMES:
        raise UserError(f"--frame is one of {', '.join(FRAMES)}, not {frame}")
    true_meshes: dict[str, trimesh.Trimesh] = {}
    for name in results:
        mesh = load_truth(meshes, name)
        if mesh is None:
            raise UserError(f"--meshes {meshes} has no mesh of {name} ({', '.join(SUFFIXES)})")
        true_meshes[name] = mesh
    names = list(results)
    progress = Progress(2 * len(names), "scoring meshes", unit="mesh")
    truth, frames = {}, {}
    for i, name in enumerate(names):
        mesh = true_meshes.pop(name)
        truth[name] = _measure(mesh, name, size)
        frames[name] = shapes.box_frame(mesh.vertices) if frame == "truth" else None
        progress.update(i + 1)
    ball = shapes.measure(trimesh.creation.icosphere(subdivisions=4, radius=0.5), size)
    rows: dict[str, list[dict]] = {"reconstruction": [], "a ball": []}
    if len(names) > 1:
        rows["another object's true mesh"] = []
    sides: dict[str, list[dict]] = {row: [] for row in rows}
    for i, name in enumerate(names):
        answers = {
            "reconstruction": _measure(load_mesh(results[name]), name, size, frames[name]),
            "a ball": ball,
            "another object's true mesh": truth[names[i - 1]],
        }
        for row in rows:
            rows[row].append(shapes.compare(answers[row], truth[name]))
            sides[row].append(shapes.compare_sides(answers[row], truth[name]))
        progress.update(len(names) + i + 1)
    means = {
        row: {k: _mean([s[k] for s in each]) for k in SHAPE_METRICS} for row, each in rows.items()
    }
    objects = [
        {"name": n, "scores": {k: v if np.isfinite(v) else None for k, v in s.items()}}
        for n, s in zip(names, rows["reconstruction"], strict=True)
    ]
    return means, objects, {row: _by_side(each) for row, each in sides.items()}


def _by_side(each: list[dict]) -> dict[str, dict]:
    """How the scores vary with the azimuth from the picture's side, over all objects."""
    azimuth = np.broadcast_to(surface_points.AZIMUTHS_DEG, (len(each), surface_points.VIEWS))
    return {k: isotropy(np.stack([s[k] for s in each]), azimuth) for k in shapes.SIDE_METRICS}


def _measure(
    mesh: trimesh.Trimesh, name: str, size: int, frame: shapes.Frame | None = None
) -> shapes.Measured:
    try:
        return shapes.measure(mesh, size, frame)
    except ValueError as error:
        raise UserError(f"a mesh of {name} cannot be scored: {error}") from None


def _mean(values: list[float]) -> float | None:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else None
