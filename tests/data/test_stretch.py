"""Stretched views against pictures whose stretched form is known."""

import numpy as np
import pytest

from iso3d_jax.data.stretch import draw_stretch, stretch_views


def box(half_width, half_height, size=64):
    """A red box about the picture's centre, transparent (and white below) elsewhere."""
    picture = np.full((size, size, 4), 255, np.uint8)
    picture[..., 3] = 0
    rows = slice(size // 2 - half_height, size // 2 + half_height)
    columns = slice(size // 2 - half_width, size // 2 + half_width)
    picture[rows, columns] = (200, 10, 10, 255)
    return picture


@pytest.mark.parametrize("scale, expected", [((0.5, 1.0), (10, 16)), ((1.0, 0.5), (20, 8))])
def test_a_box_becomes_the_narrower_or_flatter_box(scale, expected):
    (out,) = stretch_views(box(20, 16)[None], scale)
    wanted = box(*expected)
    error = np.abs(out[..., 3].astype(int) - wanted[..., 3]).mean()
    assert error < 4.0  # of 255: soft edges alone
    inside = (out[..., 3] > 250)[..., None]
    assert np.abs(np.where(inside, out[..., :3].astype(int) - (200, 10, 10), 0)).max() <= 2


def test_scale_one_changes_nothing_and_growing_is_refused():
    views = box(20, 16)[None]
    np.testing.assert_array_equal(stretch_views(views, (1.0, 1.0)), views)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        stretch_views(views, (1.2, 1.0))


def test_drawn_scales_only_shrink_and_never_both_ways():
    scales = np.asarray([draw_stretch(np.random.default_rng(i), 0.4) for i in range(200)])
    assert (scales.max(1) == 1.0).all() and scales.min() >= np.exp(-0.4)
    assert 0.3 < (scales[:, 0] < 1.0).mean() < 0.7
    assert draw_stretch(np.random.default_rng(0), 0.0) == (1.0, 1.0)


def test_a_picture_that_is_wider_than_high_is_scaled_about_its_centre():
    """An asymmetric picture on frames with odd sides: the mean of each row and column moves."""
    picture = np.zeros((1, 30, 51, 4), np.uint8)
    picture[0, 4:12, 30:44] = (10, 200, 40, 255)
    for scale in ((0.6, 1.0), (1.0, 0.6), (0.8, 0.7)):
        (out,) = stretch_views(picture, scale)
        assert out.shape == (30, 51, 4)
        alpha = out[..., 3] / 255.0
        columns, rows = np.arange(51) + 0.5 - 25.5, np.arange(30) + 0.5 - 15
        centre = (alpha.sum(0) @ columns / alpha.sum(), alpha.sum(1) @ rows / alpha.sum())
        np.testing.assert_allclose(centre, [11.5 * scale[0], -7.0 * scale[1]], atol=0.05)
        np.testing.assert_allclose(alpha.sum(), 8 * 14 * scale[0] * scale[1], rtol=0.03)
    for wrong in ((0.0, 1.0), (1.0, -0.5), (1.0, 1.01)):
        with pytest.raises(ValueError, match="scales must lie in"):
            stretch_views(picture, wrong)


def test_the_drawn_ratio_is_width_to_height_as_a_logarithm_in_the_range():
    def drawn(seed):
        return draw_stretch(np.random.default_rng(seed), 0.5)

    ratios = np.log([drawn(seed)[1] / drawn(seed)[0] for seed in range(300)])
    want = [np.random.default_rng(seed).uniform(-0.5, 0.5) for seed in range(300)]
    np.testing.assert_allclose(ratios, want, atol=1e-6)
