"""The surface of a density: grids over boxes, marching cubes by formula, simplification."""

import importlib.util

import numpy as np
import pytest
import trimesh

from iso3d_jax.core.errors import EmptySurface, UserError
from iso3d_jax.mesh import isosurface

LOW, HIGH = np.array([-0.4, -0.1, 0.2]), np.array([0.6, 0.35, 0.5])


def sloped(x):
    return 1.0 * x[:, 0] + 10.0 * x[:, 1] + 100.0 * x[:, 2]


def test_a_box_is_sampled_in_cubes_in_the_order_of_its_axes(monkeypatch):
    """Sides of 1, 0.45 and 0.3 at eleven points along the longest."""
    sizes, said = [], []

    def density(x):
        sizes.append(len(x))
        assert x.dtype == np.float32
        return sloped(x)

    monkeypatch.setattr(isosurface, "SLAB", 100)
    values, origin, spacing = isosurface.sample_box(
        density, LOW, HIGH, 11, lambda *words: said.append(words)
    )
    assert spacing == pytest.approx(0.1) and values.shape == (11, 6, 4)
    np.testing.assert_array_equal(origin, LOW)
    i, j, k = np.indices(values.shape)
    at = LOW[:, None, None, None] + 0.1 * np.stack([i, j, k])
    np.testing.assert_allclose(values, at[0] + 10 * at[1] + 100 * at[2], rtol=1e-4)
    assert sizes == [100, 100, 64]
    assert [words[1:] for words in said] == [(0, 264), (100, 264), (200, 264), (264, 264)]
    assert said[0][0] == "density of 11 x 6 x 4 points"


def ellipsoid(centre, half, scale=10.0):
    return lambda x: scale * (1.0 - np.linalg.norm((x - centre) / half, axis=-1))


def test_the_surface_of_an_uneven_body_in_a_scene_of_another_size():
    centre, half = np.array([0.1, -0.2, 0.3]), np.array([0.5, 0.3, 0.2])
    mesh = isosurface.extract(ellipsoid(centre, half), 2.5, radius=0.8, resolution=40)
    np.testing.assert_allclose(mesh.bounds, [centre - 0.75 * half, centre + 0.75 * half], atol=0.01)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * np.prod(0.75 * half), rel=0.03)
    outwards = np.sum(mesh.face_normals * (mesh.triangles_center - centre) / half**2, -1)
    assert (outwards > 0).all()
    with pytest.raises(EmptySurface, match="the densest point has"):
        isosurface.extract(ellipsoid(centre, half), 10.5, radius=0.8)


def test_the_box_has_a_margin_about_the_body_and_ends_at_the_scene():
    """The second pass asks for points in a box of its own, at the resolution asked for."""
    passes = []

    def density(x):
        passes.append((x.min(0), x.max(0), len(x)))
        return ellipsoid([0.7, 0.0, -0.1], np.array([0.45, 0.3, 0.15]))(x)

    mesh = isosurface.extract(density, 2.0, resolution=30)
    whole, fine = passes
    np.testing.assert_allclose([whole[0], whole[1]], [[-1] * 3, [1] * 3], atol=1e-6)
    assert whole[2] == 48**3
    # inside of the body at 80%: from .34 to the scene's end, +-.24, -.22 to .02
    spacing = 2 / 47
    assert 0.34 - fine[0][0] == pytest.approx(0.05 * 0.66 + spacing, abs=0.6 * spacing)
    assert fine[1][0] == pytest.approx(1.0, abs=1e-6)
    assert fine[1][1] - 0.24 == pytest.approx(0.05 * 0.48 + spacing, abs=0.6 * spacing + 0.03)
    assert -0.24 - fine[0][1] == pytest.approx(0.05 * 0.48 + spacing, abs=0.6 * spacing)
    assert -0.22 - fine[0][2] == pytest.approx(0.05 * 0.24 + spacing, abs=0.6 * spacing)
    # what reaches the scene's border is closed there
    assert mesh.is_watertight and mesh.bounds[1, 0] == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(mesh.bounds[0], [0.34, -0.24, -0.22], atol=0.02)


def test_vertices_lie_where_the_density_is_the_threshold():
    """A plane that cuts each edge at three tenths of a cell, and a corner on grid points."""
    x, y, z = np.indices((6, 5, 4)).astype(float)
    values = np.where(x > 0, 10.0 * (3.3 - x), 33.0)
    origin = np.array([0.5, -1.0, 2.0])
    mesh = isosurface._march(values, origin, 0.2, 0.0 + 1e-9)
    front = np.abs(mesh.vertices[:, 0] - (0.5 + 0.2 * 3.3)) < 1e-4
    assert front.sum() >= 5 * 4
    assert mesh.is_watertight and mesh.volume > 0
    low, high = mesh.bounds
    np.testing.assert_allclose(low, origin - 0.2 * 1.0, atol=0.2)
    np.testing.assert_allclose(high[1:], origin[1:] + 0.2 * np.array([4, 3]), atol=0.2)
    assert high[0] == pytest.approx(0.5 + 0.66, abs=1e-4)
    assert mesh.area_faces.min() > 0
    # beside grid points: vertices keep a little distance from them
    for cut, held in ((3.001, 3.03), (2.999, 2.97)):
        near = isosurface._march(10.0 * (cut - x), origin, 0.2, 0.0)
        assert near.is_watertight and near.area_faces.min() > 1e-9
        assert near.bounds[1, 0] == pytest.approx(0.5 + 0.2 * held, abs=1e-4)


def test_negative_densities_are_outside_too():
    x, y, z = np.indices((7, 7, 7)) - 3.0
    mesh = isosurface._march(-1.0 - np.sqrt(x**2 + 2 * y**2 + z**2), np.zeros(3), 1.0, -3.0)
    assert mesh.is_watertight and mesh.volume > 0
    np.testing.assert_allclose(mesh.bounds, [[1, 3 - 2**0.5, 1], [5, 3 + 2**0.5, 5]], atol=0.1)


def test_parts_are_told_by_their_faces_and_orders():
    big, small = trimesh.creation.icosphere(2), trimesh.creation.icosphere(0)  # 320 and 20 faces
    both = trimesh.util.concatenate([small.apply_translation((5, 0, 0)), big])
    kept = isosurface.drop_small_parts(both, 0.1)
    assert len(kept.faces) == 320 and len(kept.vertices) == len(big.vertices)
    assert len(both.faces) == 340  # untouched
    assert isosurface.drop_small_parts(both, 20 / 320) is both
    assert isosurface.drop_small_parts(both, 20.99 / 320) is both  # rounded down
    assert len(isosurface.drop_small_parts(both, 21 / 320).faces) == 320


def test_edges_of_a_closed_surface_lie_between_two_triangles():
    sphere = trimesh.creation.icosphere(1)
    assert isosurface.bad_edges(sphere) == 0
    opened = sphere.copy()
    opened.update_faces(np.arange(len(sphere.faces)) > 1)
    assert isosurface.bad_edges(opened) in (4, 6)
    fin = trimesh.Trimesh(
        np.vstack([sphere.vertices, [[9, 9, 9.0]]]),
        np.vstack([sphere.faces, [*sphere.faces[0][:2], len(sphere.vertices)]]), process=False,
    )  # fmt: skip
    assert isosurface.bad_edges(fin) == 3  # one with three triangles, two with one


def test_simplifying_keeps_the_best_of_its_tries(monkeypatch):
    sphere, tries = trimesh.creation.icosphere(3), []
    assert isosurface.simplify(sphere, len(sphere.faces)) is sphere
    results = {5: (4, "a"), 2: (2, "b"), 7: (3, "c")}

    class Result:
        def __init__(self, name):
            self.name, self.volume, self.inverted = name, 1.0 if name != "b" else -1.0, False

        def invert(self):
            self.inverted = True

    def decimate(self, *, face_count, aggression):
        tries.append((face_count, aggression))
        return Result(results[aggression][1])

    monkeypatch.setattr(trimesh.Trimesh, "simplify_quadric_decimation", decimate)
    bad = {name: count for count, name in results.values()}
    monkeypatch.setattr(isosurface, "bad_edges", lambda mesh: bad[mesh.name])
    best = isosurface.simplify(sphere, 100)
    assert best.name == "b" and best.inverted  # outwards again
    assert tries == [(100, 5), (100, 2), (100, 7)]
    bad["a"] = 0
    tries.clear()
    best = isosurface.simplify(sphere, 100)
    assert best.name == "a" and not best.inverted and tries == [(100, 5)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package fast-simplification"):
        isosurface.simplify(sphere, 100)


def test_small_parts_are_dropped_before_the_faces_are_counted():
    def density(x):
        return np.maximum(ellipsoid([0.3, 0, 0], np.array([0.5, 0.3, 0.2]))(x),
                          ellipsoid([-0.7, 0.6, 0.5], np.full(3, 0.12))(x))  # fmt: skip

    said = []
    mesh = isosurface.extract(density, 1.0, resolution=40, max_faces=500, smallest_part=0.2,
                              report=lambda *words: said.append(words[0]))  # fmt: skip
    assert mesh.body_count == 1 and 400 < len(mesh.faces) <= 500
    assert "marching cubes" in said and "simplifying" in said[-1]
    assert isosurface.extract(density, 1.0, resolution=40, smallest_part=0.0).body_count == 2
    assert isosurface.extract(density, 1.0, resolution=40).body_count == 2  # a hundredth
