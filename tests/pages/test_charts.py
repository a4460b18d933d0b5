"""Curves over steps as SVG."""

import re

import numpy as np

from iso3d_jax.pages import charts
from tests.pages.accessibility import contrast


def test_running_mean_keeps_what_is_straight():
    np.testing.assert_allclose(charts.running_mean([2.0] * 7, 5), 2.0)
    np.testing.assert_allclose(charts.running_mean(range(7), 3)[1:-1], range(1, 6))
    np.testing.assert_allclose(charts.running_mean([1.0, 3.0], 5), 2.0)


def test_curves_fill_the_drawing_from_the_largest_value_to_the_smallest():
    drawing = charts.lines(
        {"a <b>": [[(0, 3.0), (10, 1.0)]], "nothing": [[], [(1, 2.0)]]}, "x", smooth=1
    )
    (points,) = re.findall(r'points="([^"]+)"', drawing)
    assert points == "46.0,10.0 516.0,210.0"
    assert "a &lt;b&gt;" in drawing and "nothing" not in drawing
    assert [">3.00<" in drawing, ">1.00<" in drawing] == [True, True]
    assert charts.lines({"nothing": [[]]}, "x") == ""


def test_names_in_the_curves_colours_can_be_read():
    assert all(contrast(colour, "#f5f6f8") >= 4.5 for colour in charts.COLOURS)
