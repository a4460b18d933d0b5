"""Meshes of results against true ones: axes, layouts, baselines; inputs from a data set."""

import json

import furniture_files
import numpy as np
import pytest
import trimesh

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.evaluation import inputs, reconstructions


def lopsided() -> trimesh.Trimesh:
    """A body without symmetry: Z up, the picture's side at +X."""
    return trimesh.util.concatenate(
        [
            trimesh.creation.box(bounds=[[-0.5, -0.3, -0.2], [0.5, 0.3, 0.0]]),
            trimesh.creation.box(bounds=[[0.3, 0.0, 0.0], [0.5, 0.3, 0.4]]),
        ]
    )


def y_up(mesh):
    return trimesh.Trimesh(mesh.vertices[:, [1, 2, 0]], mesh.faces, process=False)


@pytest.fixture
def folders(tmp_path):
    runs, truth = tmp_path / "runs", tmp_path / "truth"
    for folder in (runs / "a", truth / "b-mesh" / "meshes"):
        folder.mkdir(parents=True)
    mesh = lopsided()
    y_up(mesh).export(runs / "a" / "mesh.glb")
    mesh.export(runs / "b.ply")
    y_up(mesh).export(truth / "a.obj")
    turned = mesh.copy()
    turned.apply_transform(trimesh.transformations.rotation_matrix(np.radians(-90), [0, 0, 1]))
    turned.export(truth / "b-mesh" / "meshes" / "model.obj")
    (truth / "turns.json").write_text(json.dumps({"b": 90.0}))
    return runs, truth


def test_files_of_all_axes_agree_and_baselines_are_worse(folders):
    means, objects, sides = reconstructions.score_runs(*folders, size=48)
    assert [entry["name"] for entry in objects] == ["a", "b"]
    for entry in objects:
        assert entry["scores"]["chamfer"] < 1e-3, entry
        assert entry["scores"]["volume_iou"] == pytest.approx(1, abs=0.01)
    assert means["a ball"]["chamfer"] > 0.03 and means["a ball"]["volume_iou"] < 0.6
    assert means["reconstruction"]["f_score"] == pytest.approx(1)
    assert sides["reconstruction"]["f_score"]["octants"] == pytest.approx([1] * 8)
    assert sides["a ball"]["distance"]["front"] > 0.03


def test_a_mesh_turned_the_wrong_way_scores_worse(folders):
    runs, truth = folders
    (truth / "turns.json").unlink()
    assert reconstructions.load_truth(truth, "nothing") is None
    (runs / "a" / "mesh.glb").unlink()
    means, _, _ = reconstructions.score_runs(runs, truth, size=48)
    assert means["reconstruction"]["volume_iou"] < 0.7
    assert "another object's true mesh" not in means


def test_place_and_size_count_in_the_frame_of_the_truth(folders):
    runs, truth = folders
    (runs / "b.ply").unlink()
    scores = {}
    for kind in ("right", "wrong"):
        mesh = lopsided()
        if kind == "wrong":  # larger, and the same after scaling it to its own box
            mesh.apply_scale(1.4)
        y_up(mesh).export(runs / "a" / "mesh.glb")
        for frame in reconstructions.FRAMES:
            means, _, _ = reconstructions.score_runs(runs, truth, size=48, frame=frame)
            scores[kind, frame] = means["reconstruction"]
    for key in (("right", "box"), ("right", "truth"), ("wrong", "box")):
        assert scores[key]["volume_iou"] == pytest.approx(1, abs=0.01)
    # A body inside itself at 1.4 times its size about a point of it: 1 / 1.4^3, less what moved.
    wrong = scores["wrong", "truth"]
    assert 0.2 < wrong["volume_iou"] < 1 / 1.4**3 + 0.03
    assert 0.2 < wrong["sealed_iou"] < 1 / 1.4**3 + 0.03
    with pytest.raises(UserError, match="--frame"):
        reconstructions.score_runs(runs, truth, frame="own")


def test_what_is_missing_is_said(folders, tmp_path):
    runs, truth = folders
    with pytest.raises(UserError, match="no mesh of a"):
        reconstructions.score_runs(runs, tmp_path)
    with pytest.raises(UserError, match="holds no meshes"):
        reconstructions.score_runs(truth / "b-mesh", truth)
    with pytest.raises(UserError, match="no such folder"):
        reconstructions.score_runs(tmp_path / "nowhere", truth)
    (runs / "b.ply").write_text("ply?")
    with pytest.raises(UserError, match="cannot be read|no triangles"):
        reconstructions.score_runs(runs, truth, size=48)


def test_inputs_are_turned_to_the_picture(tmp_path):
    table = MultiViewTable.load("samples", "test")
    entries = {}
    for name in table.names:
        catalogue, _, stem = name.partition("-")
        entries.setdefault(catalogue, []).append({"stem": stem, "size": (1.0, 0.5, 0.25)})
    places = [
        str(furniture_files.write_catalogue(tmp_path / f"{c}.sh3f", e)) for c, e in entries.items()
    ]
    names = inputs.write_inputs("samples", "test", places, tmp_path / "out", 2)
    assert names == [table.names[0], table.names[-1]]
    for name in names:
        i = table.names.index(name)
        off = np.abs((table.azimuth_deg[i] - 30 + 180) % 360 - 180)
        turn = np.radians(-table.azimuth_deg[i, off.argmin()])
        mesh = reconstructions.load_truth(tmp_path / "out" / "meshes", name)
        # The file's x (right, half side 1) is our +y, its z (front, 0.25) our +x, before turning.
        corner = np.array([0.25, 1.0, 0.5]) / np.linalg.norm([0.25, 1.0, 0.5])
        c, s = np.cos(turn), np.sin(turn)
        want = [c * corner[0] - s * corner[1], s * corner[0] + c * corner[1], corner[2]]
        assert np.linalg.norm(mesh.vertices - want, axis=-1).min() < 1e-5
        assert (tmp_path / "out" / "pictures" / f"{name}.png").is_file()
    with pytest.raises(UserError, match="has no object"):
        inputs.write_inputs("samples", "train", places, tmp_path / "other")
