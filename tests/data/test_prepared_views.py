"""Views prepared in one resampling give the bytes of two calls of `prepare_picture`."""

import numpy as np
import pytest

from iso3d_jax.data import prepared_views
from iso3d_jax.data.pictures import MODES, prepare_picture
from iso3d_jax.data.prepared_views import prepare_views
from iso3d_jax.data.table import MultiViewTable


def by_two_pictures(view, mode):
    """On white and painted black, in float32."""
    size = len(view)
    black = np.concatenate([np.zeros_like(view[..., :3]), view[..., 3:]], -1)
    alpha = 1.0 - prepare_picture(black, size, mode)[..., :1]
    colour = prepare_picture(view, size, mode) - (1.0 - alpha)
    straight = np.where(alpha > 1e-3, colour / np.maximum(alpha, 1e-3), 0.0)
    return np.clip(np.concatenate([straight, alpha], -1) * 255 + 0.5, 0, 255).astype(np.uint8)


RNG = np.random.default_rng(0)
VIEWS = {
    "rendered": MultiViewTable.load(None, "test").images[0, :3],
    "noise": RNG.integers(0, 256, (2, 17, 17, 4)).astype(np.uint8),
    "tall": RNG.integers(0, 256, (2, 19, 12, 4)).astype(np.uint8),
    "wide": RNG.integers(0, 256, (2, 11, 18, 4)).astype(np.uint8),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", VIEWS)
def test_to_the_last_byte(kind, mode):
    views = VIEWS[kind]
    found = prepare_views(views, mode)
    assert found.shape == (len(views), views.shape[1], views.shape[1], 4)
    if mode == "framed" and views.shape[1] == views.shape[2]:
        np.testing.assert_array_equal(found, views)  # colours that nobody sees too
        return
    for view, one in zip(views, found, strict=True):
        np.testing.assert_array_equal(one, by_two_pictures(view, mode))


def test_every_colour_and_alpha_on_white():
    alpha, colour = np.mgrid[:256, :256].astype(np.uint8)
    view = np.stack([colour, 255 - colour, colour // 2, alpha], -1)
    found = prepared_views._white_and_clear(view)
    a = view[..., 3:].astype(int)
    np.testing.assert_array_equal(
        found[..., :3], (view[..., :3] * a + 255 * (255 - a) + 127) // 255
    )
    np.testing.assert_array_equal(found[..., 3], 255 - view[..., 3])


def test_a_speck_may_vanish():
    """A wide view is made a square, in which one pixel of it is nothing."""
    view = np.zeros((1, 8, 800, 4), np.uint8)
    view[0, 3, 400] = 200
    for mode in ("framed", "i2i"):
        found = prepare_views(view, mode)
        np.testing.assert_array_equal(found[0], by_two_pictures(view[0], mode))
        assert found.any() == (mode == "i2i")  # which stretches it


def test_a_view_of_nothing_stays_nothing_and_the_views_are_left_alone():
    views = VIEWS["noise"].copy()
    views[1, ..., 3] = np.minimum(views[1, ..., 3], 127)
    before = views.copy()
    for mode in ("centred", "launch", "i2i"):
        found = prepare_views(views, mode)
        assert found[0].any() and not found[1].any()
    np.testing.assert_array_equal(views, before)
    assert not np.shares_memory(prepare_views(views, "framed"), views)
