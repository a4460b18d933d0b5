"""Uploads are checked like every picture, and a brush mends what was cut out."""

import json

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.ui import pictures
from tests.ui.conftest import png


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "not a picture"),
        (b"hello", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (png()[:90], "damaged or cut short"),
        (png((12, 12)), "12x12 pixels"),
        (b"x" * 2001, "0.002 MB are as much"),
    ],
)
def test_what_is_no_picture_is_one_sentence(tmp_path, content, sentence):
    file = tmp_path / "upload"
    file.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        pictures.read_upload(file, 2000)


def test_a_picture_is_read_and_its_background_removed(tmp_path):
    file = tmp_path / "upload.png"
    file.write_bytes(png((80, 60)))
    original = pictures.read_upload(file, 10_000)
    assert (original.mode, original.size) == ("RGBA", (80, 60))
    cut = pictures.cut_out(original, "auto")
    assert cut.shape == (60, 80, 4) and cut[30, 40, 3] == 255 and cut[2, 2, 3] == 0
    assert (pictures.cut_out(original, "never")[..., 3] == 255).all()


def stroke(keep, points, size=0.2):
    return {"keep": keep, "size": size, "points": points}


def test_a_brush_takes_away_and_brings_back():
    original = Image.new("RGB", (50, 40), (10, 200, 30))
    cutout = np.zeros((40, 50, 4), np.uint8)
    cutout[:, :25] = 90, 90, 90, 255
    away = pictures.brush(cutout, original, [stroke(False, [[0.2, 0.5]])])
    # a disc of radius 0.2 * 50 / 2 = 5 pixels about (10, 20)
    assert away[20, 10, 3] == 0 and away[20, 14, 3] == 0 and away[20, 17, 3] == 255
    assert cutout[20, 10, 3] == 255  # not in its place
    text = json.dumps([stroke(True, [[0.7, 0.2], [0.9, 0.2]])])
    back = pictures.brush(away, original, text)
    assert back[8, 40].tolist() == [10, 200, 30, 255] and back[8, 27, 3] == 0
    assert back[20, 20].tolist() == [90, 90, 90, 255]


@pytest.mark.parametrize(
    "strokes",
    [None, 3, "{", "[3]", [{}], [stroke(True, [])], [stroke(True, [[9, 9]])], [stroke(True, [[1]])],
     [stroke(True, [["a", 1]])], [stroke(True, [[0, float("nan")]])], [stroke(True, [[0, 0]], 4)],
     [stroke(True, [[0, 0]], float("nan"))]],
)  # fmt: skip
def test_strokes_that_are_none(strokes):
    cutout = np.full((8, 8, 4), 255, np.uint8)
    with pytest.raises(UserError, match="make no sense"):
        pictures.brush(cutout, Image.new("RGB", (8, 8)), strokes)


def test_something_of_the_object_is_to_be_left_and_strokes_have_an_end():
    cutout = np.full((8, 8, 4), 255, np.uint8)
    corners = [[0, 0], [1, 1], [0, 1], [1, 0]]
    with pytest.raises(UserError, match="nothing of the object"):
        pictures.brush(cutout, Image.new("RGB", (8, 8)), [stroke(False, corners, 1.0)])
    with pytest.raises(UserError, match="more strokes"):
        many = [[0.5, 0.5]] * (pictures.MOST_POINTS + 1)
        pictures.brush(cutout, Image.new("RGB", (8, 8)), [stroke(False, many)])
