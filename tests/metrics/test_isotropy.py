"""Isotropy of scores whose dependence on the azimuth is known."""

import numpy as np
import pytest

from iso3d_jax.metrics.isotropy import isotropy, octant, octant_means

AZIMUTH = np.tile(np.arange(8) * 45.0, (50, 1))


def test_octants_are_centred():
    np.testing.assert_array_equal(
        octant([0, 22, 23, 45, 337, 338, 180, -1]), [0, 0, 1, 1, 7, 0, 4, 0]
    )
    means = octant_means(np.array([1.0, 3.0, 5.0]), np.array([0.0, 10.0, 180.0]))
    assert means[0] == 2.0 and means[4] == 5.0 and np.isnan(means[[1, 2, 3, 5, 6, 7]]).all()


def test_a_score_without_sides_is_isotropic():
    score = np.repeat(np.linspace(10, 20, 50)[:, None], 8, 1)  # objects differ, views do not
    figures = isotropy(score, AZIMUTH)
    assert figures["spread"] == pytest.approx(0, abs=1e-12)
    assert figures["spread_by_chance"] == pytest.approx(0, abs=1e-12)
    assert figures["back_to_front"] == pytest.approx(1)


def test_a_score_that_falls_to_the_back():
    score = 20 + 4 * np.cos(np.radians(AZIMUTH))
    figures = isotropy(score, AZIMUTH)
    assert figures["spread"] == pytest.approx(4 / np.sqrt(2))
    front, back = (20 + s * 4 * (1 + 2 * np.sqrt(0.5)) / 3 for s in (1, -1))
    assert figures["front"] == pytest.approx(front) and figures["back"] == pytest.approx(back)
    assert figures["back_to_front"] == pytest.approx(back / front)
    assert figures["spread_by_chance"] < 0.25 * figures["spread"]
    assert figures["views"] == [50] * 8


def test_noise_spreads_as_much_as_chance_allows():
    score = np.random.default_rng(0).normal(size=AZIMUTH.shape)
    figures = isotropy(score, AZIMUTH)
    assert figures["spread"] == pytest.approx(figures["spread_by_chance"], rel=0.8)
    assert figures["spread_by_chance"] == pytest.approx(1 / np.sqrt(50), rel=0.2)


def test_sides_without_views_are_unknown():
    figures = isotropy(np.ones((2, 2)), np.array([[0.0, 90.0]] * 2))
    assert figures["back"] is None and figures["back_to_front"] is None
    assert figures["octants"][4] is None and figures["views"][4] == 0
