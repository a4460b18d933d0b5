"""Pictures side by side, pixel by pixel."""

import numpy as np
import pytest

from iso3d_jax.data.grids import GAP, tile, to_image, untile


def plain(level, size=3):
    return np.full((size, size, 3), level, np.uint8)


def test_rows_and_columns_with_white_between_and_around():
    sheet = np.asarray(tile([[plain(10), plain(20), plain(30)], [plain(40)]]))
    assert sheet.shape == (2 * 3 + 3 * GAP, 3 * 3 + 4 * GAP, 3) and GAP == 4
    want = np.full(sheet.shape, 255)
    for (y, x), level in {(0, 0): 10, (0, 1): 20, (0, 2): 30, (1, 0): 40}.items():
        top, left = 4 + 7 * y, 4 + 7 * x
        want[top : top + 3, left : left + 3] = level
    np.testing.assert_array_equal(sheet, want)


def test_pictures_of_other_sizes_take_the_largest_or_the_size_that_is_asked_for():
    sheet = tile([[plain(10, 2), plain(20, 6)]])
    assert sheet.size == (2 * 6 + 12, 6 + 8)
    cells = untile(sheet, 6)
    np.testing.assert_array_equal(cells[0][0], plain(10, 6))
    np.testing.assert_array_equal(cells[0][1], plain(20, 6))
    assert tile([[plain(10, 2)]], cell=5).size == (13, 13)


def test_a_sheet_is_taken_apart_again_with_white_at_the_end_of_short_rows():
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (5, 5, 3)).astype(np.uint8) for _ in range(n)] for n in (1, 3)]
    cells = untile(tile(rows), 5)
    assert [len(row) for row in cells] == [3, 3]
    np.testing.assert_array_equal(cells[0][0], rows[0][0])
    assert (cells[0][1] == 255).all() and (cells[0][2] == 255).all()
    for found, want in zip(cells[1], rows[1], strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("value, byte", [(-0.1, 0), (0.5, 128), (0.499, 127), (1.2, 255)])
def test_floats_become_the_nearest_byte_and_bytes_stay(value, byte):
    assert np.asarray(to_image(np.full((2, 3, 3), value)))[0, 0, 0] == byte
    assert to_image(plain(7)).size == (3, 3) and np.asarray(to_image(plain(7)))[0, 0, 0] == 7
    assert to_image(np.zeros((2, 5, 3))).size == (5, 2)
