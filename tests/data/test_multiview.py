"""The shipped samples, opening and making data sets, and batches."""

import dataclasses

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import multiview
from iso3d_jax.data.asset_sources import assign_split
from iso3d_jax.data.multiview import open_dataset, write_dataset
from iso3d_jax.data.render import sample_cameras
from iso3d_jax.data.table import MultiViewTable, join

SPLITS = {"train": 18, "validation": 2, "test": 4}


@pytest.fixture(scope="module")
def table():
    return MultiViewTable.load("samples", "train")


def write_random(folder, names, resolution=8, sets=2):
    """A data set of random pictures; returns them by name."""
    rng = np.random.default_rng(0)
    images = {}

    def items():
        for name in names:
            images[name] = rng.integers(0, 256, (4 * sets, resolution, resolution, 4), np.uint8)
            yield sample_cameras(name, 0, sets) | dict(
                name=name, title="Café", category="c", creator="d", license="e", source="f",
                split=assign_split(name), images=images[name],
            )  # fmt: skip

    write_dataset(folder, items(), {"resolution": resolution, "sets": sets, "seed": 0}, count=2)
    return images


@pytest.mark.parametrize("split", SPLITS)
def test_samples_obey_what_the_readme_says(split):
    data = open_dataset(None, split)
    assert len(data) == SPLITS[split] and data.resolution == 64
    for record in data:
        assert assign_split(record["name"]) == record["split"] == split
        assert record["license"] == "CC0-1.0" and record["creator"]
        images = record["images"]
        assert images.shape == (24, 64, 64, 4) and images.dtype == np.uint8
        assert ((images[..., 3] > 0).mean((1, 2)) > 0.005).all()
        cameras = sample_cameras(record["name"], 0, 6)
        for key, value in cameras.items():
            np.testing.assert_allclose(record[key], value, atol=1e-5)
        azimuth = record["azimuth_deg"].reshape(6, 4)
        steps = (azimuth - azimuth[:, :1]) % 360
        np.testing.assert_allclose(steps, [[0, 90, 180, 270]] * 6, atol=1e-3)


def test_samples_have_credits():
    credits = (multiview.SAMPLES / "CREDITS.md").read_text()
    for split in SPLITS:
        for record in open_dataset("samples", split):
            line = next(row for row in credits.splitlines() if record["name"] in row)
            assert record["creator"] in line and record["license"] in line


def test_round_trip_keeps_every_pixel(tmp_path):
    images = write_random(tmp_path, ["object1", "object2", "object4", "object10"])
    found = {}
    for record in open_dataset(tmp_path, "all"):
        found[record["name"]] = record["images"]
        assert record["title"] == "Café"
        assert record["set_index"].tolist() == [0] * 4 + [1] * 4
    assert found.keys() == images.keys()
    for name, expected in images.items():
        np.testing.assert_array_equal(found[name], expected)
    with pytest.raises(IndexError):
        open_dataset(tmp_path, "test")[1]


def test_empty_and_unknown_splits(tmp_path):
    write_random(tmp_path / "d", ["object2"])
    assert [r["name"] for r in open_dataset(tmp_path / "d", "train")] == ["object2"]
    with pytest.raises(UserError, match=r"test split .* is empty \(it has train 1\)"):
        open_dataset(tmp_path / "d", "test")
    with pytest.raises(UserError, match="unknown split 'tset'"):
        open_dataset(tmp_path / "d", "tset")
    with pytest.raises(UserError, match="holds a data set already"):
        write_random(tmp_path / "d", ["object4"])
    with pytest.raises(UserError, match="no object in"):
        write_random(tmp_path / "none", [])


def test_not_a_data_set(tmp_path):
    with pytest.raises(UserError, match="there is no data set at"):
        open_dataset(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="is not a multi-view data set"):
        open_dataset(tmp_path, "train")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        open_dataset(tmp_path / "file", "train")
    (tmp_path / "half" / "manifests").mkdir(parents=True)
    with pytest.raises(UserError, match="not finished"):
        open_dataset(tmp_path / "half", "train")
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        open_dataset(tmp_path, "train")


def test_reading_and_writing_need_no_tensorflow(tmp_path, run_python):
    code = (
        "import sys\n"
        "from iso3d_jax.data.multiview import open_dataset, write_dataset\n"
        "records = list(open_dataset(None, 'test'))\n"
        f"write_dataset({str(tmp_path / 'd')!r}, records, {{'resolution': 64}})\n"
        f"print(len(open_dataset({str(tmp_path / 'd')!r}, 'test')))\n"
        "print('tensorflow' in sys.modules)"
    )
    process = run_python("-c", code)
    assert process.stdout.split() == ["4", "False"], process.stderr


def test_tables_are_joined_in_order_and_unlike_ones_refused(table):
    both = join([table, table])
    assert len(both) == 2 * len(table) and both.names == table.names * 2
    np.testing.assert_array_equal(both.images[len(table) :], table.images)
    np.testing.assert_array_equal(both.azimuth_deg[: len(table)], table.azimuth_deg)
    fewer = dataclasses.replace(table, images=table.images[:, :4])
    with pytest.raises(UserError, match="different number or size"):
        join([table, fewer])
