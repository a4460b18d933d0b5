"""Unwrapping and baking: colours where they belong."""

import numpy as np
import pytest
import trimesh

from iso3d_jax.mesh import texture


def test_values_of_corners_are_interpolated():
    """An affine function of the place, over two triangles of a square in one corner."""
    uv = np.array([[1.0, 2.0], [6.0, 2.0], [6.0, 5.0], [1.0, 5.0]])
    values = np.stack([3.0 * uv[:, 0] - uv[:, 1], 0.5 + 2.0 * uv[:, 1]], -1)
    out, covered = texture.rasterize(uv, values, np.array([[0, 1, 2], [0, 2, 3]]), 8)
    row, column = np.mgrid[:8, :8] + 0.5
    np.testing.assert_array_equal(covered, (column > 1) & (column < 6) & (row > 2) & (row < 5))
    want = np.stack([3.0 * column - row, 0.5 + 2.0 * row], -1)
    np.testing.assert_allclose(out[covered], want[covered], atol=1e-5)
    assert not out[~covered].any()


@pytest.fixture(scope="module")
def box():
    """A box with unlike sides, finely divided."""
    mesh = trimesh.creation.box((1.0, 0.6, 0.3))
    for _ in range(3):
        mesh = mesh.subdivide()
    return mesh.apply_translation((0.1, 0.0, -0.2))


def colour(x, normal):
    """Of place and normal both; the top is bright."""
    assert np.allclose(np.linalg.norm(normal, axis=-1), 1.0, atol=0.02)
    return np.stack([0.5 + 0.4 * x[:, 0], 0.5 + 0.5 * x[:, 1], 0.5 + 0.4 * normal[:, 2]], -1)


def test_texels_hold_the_colour_of_their_place_and_normal(box, monkeypatch):
    said, sizes = [], []

    def counted(x, normal):
        sizes.append(len(x))
        return colour(x, normal)

    monkeypatch.setattr(texture, "SLAB", 1000)
    mesh = texture.bake(box, counted, 96, lambda *words: said.append(words))
    assert mesh.texture.shape == (96, 96, 3) and mesh.texture.dtype == np.uint8
    assert mesh.uv.min() >= 0 and mesh.uv.max() <= 1 and mesh.uv.dtype == np.float32
    assert len(mesh.faces) == len(box.faces) and mesh.faces.dtype == np.int64
    triangles = mesh.vertices[mesh.faces]
    np.testing.assert_allclose(triangles, box.triangles, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=-1), 1.0, atol=1e-4)
    want = colour(mesh.vertices, mesh.normals) * 255
    np.testing.assert_allclose(mesh.colours, np.clip(want, 0, 255), atol=0.51)
    # in the middle of each face: the texel there, with v upwards
    at = mesh.uv[mesh.faces].mean(1)
    row, column = ((1 - at[:, 1]) * 96).astype(int), (at[:, 0] * 96).astype(int)
    normal = mesh.normals[mesh.faces].mean(1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    want = colour(triangles.mean(1), normal)
    assert np.quantile(np.abs(mesh.texture[row, column] / 255 - want), 0.98) < 0.05
    assert max(sizes) == 1000 and sum(sizes) > 4000
    assert said[0] == (f"unwrapping {len(box.faces)} faces (xatlas)", 0, 0)
    done = [words[1] for words in said[1:]]
    total = said[-1][2]
    assert done[0] == 0 and done == sorted(done) and done[-1] == total == sum(sizes)


def test_the_space_between_charts_takes_the_nearest_colour(box):
    """So that a filter at the border of a chart meets no black."""
    mesh = texture.bake(box, lambda x, normal: np.full_like(x, [0.2, 0.6, 0.8]), 64)
    np.testing.assert_array_equal(mesh.texture.reshape(-1, 3), np.tile([51, 153, 204], (4096, 1)))
    bright = texture.bake(box, lambda x, normal: np.full_like(x, [-1.0, 2.0, 0.5]), 32)
    assert set(map(tuple, bright.texture.reshape(-1, 3))) == {(0, 255, 128)}
    assert set(map(tuple, bright.colours)) == {(0, 255, 128)}


def test_a_large_mesh_is_laid_out_in_parts_that_do_not_overlap(monkeypatch):
    ball = trimesh.creation.icosphere(3)  # 1,280 faces
    monkeypatch.setattr(texture, "TOGETHER", 200)
    original, faces, uv = texture.unwrap(ball, 256)
    np.testing.assert_array_equal(original[faces], ball.faces)  # in the mesh's order
    assert len(uv) == len(original) and uv.min() >= 0 and uv.max() <= 1
    # each triangle by itself: no texel's middle is in two (but for those on a common edge)
    seen = np.zeros((256, 256), int)
    for triangle in uv[faces] * 256:
        seen += texture.rasterize(triangle, np.ones((3, 1)), np.array([[0, 1, 2]]), 256)[1]
    assert (seen > 0).mean() > 0.3
    assert (seen > 1).sum() < 0.02 * (seen > 0).sum()


@pytest.mark.parametrize("quads", [0, 640, 100])
def test_parts_are_compact_and_hold_both_halves_of_a_quad(monkeypatch, quads):
    ball = trimesh.creation.icosphere(3)
    monkeypatch.setattr(texture, "TOGETHER", 200)
    centres = np.random.default_rng(0).permutation(ball.triangles_center)
    parts = texture._cut(centres, quads)
    assert sorted(np.concatenate(parts)) == list(range(1280))
    assert max(map(len, parts)) <= 200 and len(parts) <= 16
    where = np.empty(1280, int)
    for number, part in enumerate(parts):
        where[part] = number
    assert (where[: 2 * quads : 2] == where[1 : 2 * quads : 2]).all()
    if not quads:  # an eighth of a ball is 1.42 across at most
        assert max(np.ptp(centres[part], 0).max() for part in parts) < 1.45


def test_vertices_that_were_not_unwrapped_take_the_nearest_one_s_place(box, monkeypatch):
    import xatlas

    true = xatlas.Atlas.__getitem__
    lost = []

    class Atlas:
        def __init__(self):
            self.atlas = xatlas_atlas()

        def __getattr__(self, name):
            return getattr(self.atlas, name)

        def __getitem__(self, index):
            original, faces, uv = true(self.atlas, index)
            uv = uv.copy()
            uv[5] = 0.0
            lost.append((original, uv))
            return original, faces, uv

    xatlas_atlas = xatlas.Atlas
    monkeypatch.setattr(xatlas, "Atlas", Atlas)
    mesh = texture.bake(box, colour, 64)
    original, uv = lost[0]
    distance = np.linalg.norm(mesh.vertices - mesh.vertices[5], axis=-1)
    distance[5] = np.inf
    near = np.flatnonzero(distance < distance.min() + 1e-6)
    assert any(np.allclose(mesh.uv[5], uv[k]) for k in near) and (mesh.uv[5] > 0).any()
    others = np.arange(len(uv)) != 5
    np.testing.assert_allclose(mesh.uv[others], uv[others])
