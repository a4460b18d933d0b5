"""Contact sheets, and the sheet of a folder of runs made from them."""

import numpy as np
from PIL import Image

from iso3d_jax.data import grids
from iso3d_jax.reconstruction import batch, pictures


def test_untile_gives_back_what_was_tiled():
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 255, (8, 8, 3), np.uint8) for _ in range(n)] for n in (3, 1, 2)]
    cells = grids.untile(grids.tile(rows), 8)
    assert [len(row) for row in cells] == [3, 3, 3]
    for row, wanted in zip(cells, rows, strict=True):
        np.testing.assert_array_equal(row[: len(wanted)], wanted)
        assert all(np.all(rest == 255) for rest in row[len(wanted) :])


def test_a_folder_of_runs_has_a_sheet_with_a_row_each(tmp_path):
    """Of uniform colours: picture, four views and every second of eight sides."""
    cell = np.ones((16, 16, 3), np.float32)
    for name, tint in (("a", 0.2), ("c", 0.6)):
        (tmp_path / name).mkdir()
        sides = np.stack([cell * 255 * k / 8 for k in range(8)]).astype(np.uint8)
        turn = pictures.Turntable(sides, sides, sides[..., 0], sides, sides[..., 0])
        views = np.stack([cell * tint] * 4)
        pictures.contact_sheet(tmp_path / name / "contact_sheet.png", 0 * cell, views, turn)
    batch._write_sheet(tmp_path, ["a", "missing", "c"], 4)
    with Image.open(tmp_path / "sheet.png") as sheet:
        rows = grids.untile(sheet, pictures.TILE // 2)
    assert [len(row) for row in rows] == [9, 9]
    for row, tint in zip(rows, (0.2, 0.6), strict=True):
        wanted = [0, *[tint * 255] * 4, *[255 * k / 8 for k in (0, 2, 4, 6)]]
        np.testing.assert_allclose([c.mean() for c in row], wanted, atol=1)
    batch._write_sheet(tmp_path / "empty", ["a"], 4)  # nothing came out: no sheet
    assert not (tmp_path / "empty").exists()
