"""Given cameras about the scene's ball."""

import dataclasses

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.posed_pictures import PosedPictures
from iso3d_jax.geometry.cameras import camera_to_world
from iso3d_jax.reconstruction.init import framing

RADIUS, SIDE = 0.7, 40


def ball(middle=(0.0, 0.0, 0.0)):
    """Exact masks of a ball by ten cameras about the origin."""
    azimuth = np.arange(10) * 36.0
    c2w = camera_to_world(np.tile([10.0, 40.0], 5), azimuth, 3.2).astype(np.float64)
    fov = np.full(10, 40.0)
    at = ((np.arange(SIDE) + 0.5) / SIDE * 2 - 1) * np.tan(np.radians(20.0))
    x, y = np.meshgrid(at, -at)
    local = np.stack([x, y, -np.ones_like(x)], -1)
    rays = np.einsum("hwk,njk->nhwj", local / np.linalg.norm(local, axis=-1, keepdims=True),
                     c2w[:, :3, :3])  # fmt: skip
    to = np.asarray(middle) - c2w[:, None, None, :3, 3]
    near = np.linalg.norm(to - (to * rays).sum(-1, keepdims=True) * rays, axis=-1)
    alpha = np.where(near < RADIUS, 255, 0).astype(np.uint8)
    images = np.stack([alpha] * 4, -1)
    return PosedPictures(images, c2w, fov, np.ones(alpha.shape, bool))


def test_cameras_that_fit_stay_where_they_are():
    posed = ball()
    found, said = framing.fit_to_scene(posed)
    assert found is posed and said == "the cameras fit the scene as they are"


@pytest.mark.parametrize(("tilt", "says"), [(0.0, ""), (120.0, "; turned upright")])
def test_an_object_in_any_world_comes_into_the_ball(tilt, says):
    posed = ball()
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array(
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    )
    offset = np.array([30.0, -4.0, 9.0])
    world = posed.c2w.copy()
    world[:, :3, :3] = turn @ posed.c2w[:, :3, :3]
    world[:, :3, 3] = 7.0 * posed.c2w[:, :3, 3] @ turn.T + offset
    found, said = framing.fit_to_scene(dataclasses.replace(posed, c2w=world))
    assert said.startswith("scaled by 0.1") and said.endswith(f"from their outlines{says}")
    np.testing.assert_allclose(np.linalg.det(found.c2w[:, :3, :3]), 1, atol=1e-9)
    away = np.linalg.norm(found.c2w[:, :3, 3], axis=-1)
    assert np.ptp(away) < 0.25  # the middle is that of the ball
    scale = away.mean() / 3.2  # of the ball's world
    assert 0.7 < RADIUS * scale < framing.FILL  # hulls of few views have corners
    assert found.c2w[:, 2, 1].mean() > 0.8  # upright


def test_an_object_beside_the_point_that_cameras_look_at_is_found():
    posed = ball((0.35, 0.0, 0.0))
    found, said = framing.fit_to_scene(posed)
    moved = np.linalg.norm(found.c2w[:, :3, 3], axis=-1)
    assert "from their outlines" in said or found is posed
    assert moved[0] < 3.2 if found is posed else moved[0] < moved[5]


def test_what_a_frame_cuts_may_go_on_outside_of_it():
    posed = ball()
    assert not framing.is_cut(posed).any()
    images = posed.images.copy()
    images[3, 0, 20, 3] = 255
    assert framing.is_cut(dataclasses.replace(posed, images=images)).tolist() == [
        k == 3 for k in range(10)
    ]
    seen = posed.seen.copy()
    seen[5, :, :20] = False  # the ball reaches the edge of what is seen
    assert framing.is_cut(dataclasses.replace(posed, seen=seen)).tolist() == [
        k == 5 for k in range(10)
    ]


def test_outlines_that_share_nothing_leave_the_common_point():
    posed = ball()
    images = posed.images.copy()
    images[4] = 0
    images[4, 2:4, 2:4] = 255
    found, said = framing.fit_to_scene(dataclasses.replace(posed, images=images))
    assert "since the outlines share no object" in said
    reach = 3.2 * np.tan(np.radians(20.0))
    np.testing.assert_allclose(np.linalg.norm(found.c2w[:, :3, 3], axis=-1), 3.2 / reach, rtol=1e-4)


def test_cameras_without_a_common_point_are_refused():
    posed = ball()
    same = np.repeat(posed.c2w[:1], 10, 0)
    same[:, 0, 3] += np.arange(10)
    away = posed.c2w.copy()
    away[:, :3, [0, 2]] *= -1  # turned about
    for c2w in (same, away):
        with pytest.raises(UserError, match="no point that all look at"):
            framing.fit_to_scene(dataclasses.replace(posed, c2w=c2w))
