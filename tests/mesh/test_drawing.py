"""Drawing a mesh: perspective, what is in front, colours of the texture; all by hand."""

import numpy as np
import pytest

from iso3d_jax.mesh import drawing
from iso3d_jax.mesh.texture import TexturedMesh


def test_colours_between_texels_are_bilinear():
    """Row 0 is the top, v = 1; beyond the middle of the outer texels nothing changes."""
    texture = np.zeros((4, 4, 3), np.uint8)
    texture[..., 0] = np.arange(4) * 10
    texture[..., 1] = np.arange(4)[:, None] * 20
    texture[..., 2] = 51
    column, row = np.array([0.5, 1.0, 2.5, 3.2, 0.1, 4.0]), np.array([0.5, 1.5, 3.0, 0.2, 4.0, 2.2])
    uv = np.stack([column / 4, 1 - row / 4], -1)
    want = np.stack([np.clip(column - 0.5, 0, 3) * 10, np.clip(row - 0.5, 0, 3) * 20,
                     np.full(6, 51.0)], -1)  # fmt: skip
    np.testing.assert_allclose(drawing.lookup(texture, uv), want / 255, atol=1e-9)


def board(corners, texture):
    """A square of two triangles; uv (0, 0), (1, 0), (1, 1), (0, 1)."""
    corners = np.asarray(corners, np.float32)
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return TexturedMesh(corners, corners, uv, faces, texture, np.zeros((4, 3), np.uint8))


def camera(position):
    """At a place on +x, looking along -x with z up: right is +y."""
    c2w = np.eye(4)
    c2w[:3] = np.stack([[0, 1, 0], [0, 0, 1], [1, 0, 0], position], -1)
    return c2w


@pytest.fixture
def ramp():
    """Red grows with u, green with v."""
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[..., 0] = (np.arange(64) + 0.5) / 64 * 255
    texture[..., 1] = ((np.arange(64)[::-1] + 0.5) / 64 * 255)[:, None]
    return texture


def expected(place, normal, along_u, along_v, size, position, fov):
    """Texture coordinates seen by each pixel's centre of a board, or nan; float64."""
    out = np.full((size, size, 2), np.nan)
    depth = np.full((size, size), np.inf)
    t = np.tan(np.radians(fov) / 2)
    for row, column in np.ndindex(size, size):
        x = (column + 0.5 - size / 2) / (size / 2) * t
        y = (size / 2 - row - 0.5) / (size / 2) * t
        ray = np.array([-1.0, x, y])
        s = (place - position) @ normal / (ray @ normal)
        at = position + s * ray - place
        u, v = at @ along_u / (along_u @ along_u), at @ along_v / (along_v @ along_v)
        if s > 0 and 0 <= u <= 1 and 0 <= v <= 1:
            out[row, column], depth[row, column] = (u, v), s
    return out, depth


def test_a_slanted_board_is_seen_in_perspective(ramp):
    """Texture coordinates are not linear on the screen; right is +y and up is +z."""
    place, along_u, along_v = (
        np.array([-1.5, -1.0, -0.5]),
        np.array([2.5, 1.6, 0]),
        np.array([0, 0, 1.2]),
    )
    mesh = board([place, place + along_u, place + along_u + along_v, place + along_v], ramp)
    position = np.array([4.0, 0.2, 0.1])
    image, covered = drawing.draw(mesh, camera(position), 50.0, 20)
    assert image.shape == (20, 20, 3) and image.dtype == covered.dtype == np.float32
    uv, _ = expected(place, np.cross(along_u, along_v), along_u, along_v, 20, position, 50.0)
    seen = np.isfinite(uv[..., 0])
    whole = covered > 0.999
    assert seen.sum() > 50 and (whole <= seen).all() and (covered[seen] > 0.3).all()
    np.testing.assert_allclose(image[covered == 0], 1.0)
    np.testing.assert_allclose(image[whole][:, :2], uv[whole], atol=0.03)
    np.testing.assert_allclose(image[whole][:, 2], 0.0)
    row = uv[10][seen[10], 0]  # were it linear on the screen, the test could not tell
    assert np.abs(row - np.linspace(row[0], row[-1], len(row))).max() > 0.06
    # a pixel that is covered in part is as white as it is not covered
    part = (covered > 0) & (covered < 1)
    assert part.any() and (image[part][:, 2] == pytest.approx(1 - covered[part], abs=1e-5))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_is_in_front_is_seen(order):
    """Boards that cross: each is in front on one side, whichever is drawn first."""
    red, blue = (np.full((4, 4, 3), c, np.uint8) for c in ([255, 0, 0], [0, 0, 255]))
    texture = np.concatenate([np.repeat(red, 2, 1)[:4, :4], np.repeat(blue, 2, 1)[:4, :4]], 1)
    texture = np.concatenate([texture, texture])  # left half red, right half blue
    first = np.array([[0.5, -1, -1], [-0.5, 1, -1], [-0.5, 1, 1], [0.5, -1, 1]], float)
    second = first * [-1, 1, 1]
    corners = np.concatenate([first, second]).astype(np.float32)
    uv = np.concatenate([np.full((4, 2), 0.2), np.full((4, 2), [0.8, 0.2])]).astype(np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]]).reshape(2, 2, 3)
    faces = faces[list(order)].reshape(4, 3)
    mesh = TexturedMesh(corners, corners, uv, faces, texture, np.zeros((8, 3), np.uint8))
    image, covered = drawing.draw(mesh, camera([4.0, 0, 0]), 40.0, 16)
    assert covered[8, 8] == 1.0
    np.testing.assert_allclose(image[8, 4], [1, 0, 0], atol=1e-5)  # y < 0: the first is nearer
    np.testing.assert_allclose(image[8, 11], [0, 0, 1], atol=1e-5)


def test_shares_of_pixels_by_hand():
    """An edge at two thirds of a pixel, three samples across it."""
    texture = np.zeros((4, 4, 3), np.uint8)
    edge = 2 / 3 * 0.25  # of a pixel of the 8 across a picture of width 2 at distance 1
    mesh = board([[0, -0.5, -0.5], [0, edge, -0.5], [0, edge, 0.5], [0, -0.5, 0.5]], texture)
    _, covered = drawing.draw(mesh, camera([1.0, 0, 0]), 90.0, 8)
    np.testing.assert_allclose(covered[4], [0, 0, 1, 1, 2 / 3, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(covered[:, 3], [0, 0, 1, 1, 1, 1, 0, 0], atol=1e-6)
