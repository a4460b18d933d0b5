"""Objects as pictures: variants, mirrored ones and the prepared reference."""

import numpy as np
import pytest

from iso3d_jax.data import picture_table
from iso3d_jax.data.damaged import DamagedRecord
from iso3d_jax.data.multiview import open_dataset
from iso3d_jax.data.multiview.strips import read_stored
from iso3d_jax.data.picture_table import PicturedObject, PictureTable
from iso3d_jax.data.table import prepare_references


def records():
    rng = np.random.default_rng(0)
    return [
        {
            "images": rng.integers(0, 256, (5, 8, 8, 4)).astype(np.uint8),
            "azimuth_deg": rng.uniform(0, 360, 5),
            "elevation_deg": rng.uniform(0, 30, 5),
            "name": np.str_(f"chair {i}"),
        }
        for i in range(3)
    ]


def test_a_row_has_the_views_the_prepared_reference_and_what_decides_its_colours():
    objects = records()
    table = PictureTable(objects, 3, ["centred"])
    assert len(table) == 3 and table.num_views == 5 and table.name(2) == "chair 2"
    assert table.mirrored.tolist() == [False, True] * 3
    record = table.record(1)
    np.testing.assert_array_equal(record.azimuth_deg, objects[1]["azimuth_deg"])
    np.testing.assert_array_equal(record.elevation_deg, objects[1]["elevation_deg"])
    images = objects[1]["images"]
    prepared = prepare_references(images[None, [3]], "centred")[0, 0]
    assert not np.array_equal(prepared, images[3])
    for variant, colour, mirror in ((0, 0, False), (1, 0, True), (4, 2, False), (5, 2, True)):
        row = record.read(variant, 3, np.array([4, 0]), True)
        flip = slice(None, None, -1 if mirror else 1)
        np.testing.assert_array_equal(row["views"], images[[4, 0]][:, :, flip])
        np.testing.assert_array_equal(row["reference_view"], images[3:4][:, :, flip])
        np.testing.assert_array_equal(row["prepared"], prepared[:, flip])
        assert (row["colour"], row["object"]) == (colour, 1)
        assert row["colour"].dtype == row["object"].dtype == np.int32
    assert "reference_view" not in record.read(0, 3, np.array([1]), False)
    framed = PictureTable(objects, 1, ["framed"]).record(1).read(0, 3, np.array([0]), False)
    np.testing.assert_array_equal(framed["prepared"], images[3])


def test_references_take_turns_in_how_they_are_prepared():
    """As where they are encoded once: by view, object and variant."""
    images = records()[1]["images"]
    record = PictureTable(records(), 2, ["framed", "centred", "framed"]).record(1)
    for reference, variant in ((0, 0), (1, 0), (2, 0), (0, 2), (3, 0)):
        row = record.read(variant, reference, np.array([0]), False)
        mode = "centred" if (reference + 1 + variant) % 3 == 1 else "framed"
        want = prepare_references(images[None, [reference]], mode)[0, 0]
        np.testing.assert_array_equal(row["prepared"], want)


def test_a_set_on_disk_decodes_what_it_is_asked_for(monkeypatch):
    """The rows are those of records that were read whole."""
    dataset = open_dataset("samples", "test")
    lazy, whole = PictureTable(dataset, 1, ["centred"]), PictureTable(list(dataset), 1, ["centred"])
    assert lazy.num_views == 24 and lazy.name(1) == whole.name(1)
    asked = []
    decode = picture_table.decode_views
    monkeypatch.setattr(picture_table, "decode_views", lambda *a: asked.append(a[1:]) or decode(*a))
    for views, reference in (([4, 5, 6, 7], 9), ([3], 3)):
        row = lazy.record(1).read(1, reference, np.array(views), True)
        want = whole.record(1).read(1, reference, np.array(views), True)
        assert row.keys() == want.keys()
        for name in row:
            np.testing.assert_array_equal(row[name], want[name])
    assert asked == [(24, [4, 5, 6, 7, 9]), (24, [3])]


def test_damaged_pictures_are_named(monkeypatch):
    dataset = open_dataset("samples", "test")
    table = PictureTable(dataset, 1, ["framed"])
    stored = read_stored(dataset, 1)
    half = dict(stored, strip=stored["strip"][: len(stored["strip"]) // 2])
    with pytest.raises(DamagedRecord, match=rf"pictures of {stored['name']}, object 1 .*again"):
        PicturedObject(half, 1, "framed").read(0, 1, np.array([0]), False)

    def broken(dataset, index):
        raise RuntimeError("Corrupted Riegeli/records file")

    monkeypatch.setattr(picture_table, "read_stored", broken)
    with pytest.raises(DamagedRecord, match="object 2 of the data set samples is damaged"):
        table.record(2)
