"""Folders of pictures: what is passed over, names that differ, and pictures that fail."""

import os
from pathlib import Path

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.picture_folders import LONGEST, find_pictures, load_all, name_pictures


def test_find_pictures(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "Thumbs.db", ".DS_Store", "._b.png", ".c.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in find_pictures(tmp_path)] == ["a.JPG", "b.png"]
    assert find_pictures(tmp_path / "b.png") == [tmp_path / "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        find_pictures(tmp_path / "empty")


def names(*paths):
    return name_pictures([Path(path) for path in paths])


def test_names_are_stems_where_these_differ():
    assert names("a/chair.png", "b/lamp.jpg") == ["chair", "lamp"]


def test_names_that_collide_lose_nothing():
    assert names("a.jpg", "a.png") == ["a.jpg", "a.png"]
    assert names("A.PNG", "a.png", "a.jpg") == ["A.PNG", "a.png_2", "a.jpg"]  # one on macOS
    assert names("x/a.png", "y/a.png", "z/a.png") == ["a.png", "a.png_2", "a.png_3"]
    assert names("a.jpg", "a.png", "a.png.webp") == ["a.jpg", "a.png", "a.png_2"]
    assert names("x/a.png", "y/a.png", "a.png_2.png") == ["a.png", "a.png_2", "a.png_2_2"]
    composed, apart = "\u00e9.png", "e\u0301.jpg"  # one letter, written in two ways
    assert names(composed, apart) == [composed, apart]


def test_long_names_leave_room_for_more():
    found = names("y" * 251 + ".png", "y" * 250 + "z.png", "\u00e4" * 125 + ".png")
    assert len(set(found)) == 3
    assert all(len(os.fsencode(name)) <= LONGEST + 2 for name in found)


def test_names_in_bytes_that_are_no_utf8_are_kept():
    assert names(os.fsdecode(b"st\xfchl.png")) == [os.fsdecode(b"st\xfchl")]


def test_one_bad_picture_does_not_keep_the_others_from_theirs(capsys):
    def load(path):
        if path.name == "bad.png":
            raise UserError("it is damaged")
        return np.zeros(3)

    files = {"a": Path("a.png"), "bad": Path("bad.png"), "c": Path("c.png")}
    loaded, failed = load_all(files, load)
    assert list(loaded) == ["a", "c"] and failed == {"bad": "it is damaged"}
    assert "failed: bad: it is damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match="^it is damaged$"):
        load_all({"bad": Path("bad.png")}, load)
    with pytest.raises(UserError, match="no picture can be used; the first: it is damaged"):
        load_all({"bad": Path("bad.png"), "b": Path("bad.png")}, load)
