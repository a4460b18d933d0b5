"""Strips of views, indices of a split and the folders in which a data set is looked for."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import multiview
from iso3d_jax.data.multiview import MultiViewDataset, find_dataset, open_dataset, prepare
from iso3d_jax.data.multiview.multiview_dataset_builder import TEXTS, decode_strip, encode_strip
from iso3d_jax.geometry import cameras

VIEWS = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 4)).astype(np.uint8)


def test_views_lie_side_by_side_in_their_order():
    strip = np.asarray(Image.open(io.BytesIO(encode_strip(VIEWS))))
    assert strip.shape == (4, 18, 4)
    for k in range(3):
        np.testing.assert_array_equal(strip[:, 6 * k : 6 * k + 6], VIEWS[k])
    np.testing.assert_array_equal(decode_strip(encode_strip(VIEWS), 3), VIEWS)


def test_a_record_is_decoded_when_it_is_asked_for():
    angles = np.array([0.0, 90.0, 200.0], np.float32)
    source = [
        {"strip": encode_strip(VIEWS), "azimuth_deg": angles + i, "elevation_deg": angles / 10,
         "distance": angles / 100 + 2, "name": f"Café {i}".encode()}
        for i in range(4)
    ]  # fmt: skip
    data = MultiViewDataset(source, "train", "here", 6)
    assert len(data) == 4 and data.resolution == 6 and data.split == "train"
    assert repr(data) == "MultiViewDataset('here', split='train', objects=4)"
    for index in (1, -3, np.int64(1)):
        record = data[index]
        assert record["name"] == "Café 1" and "strip" not in record
        np.testing.assert_array_equal(record["images"], VIEWS)
        np.testing.assert_array_equal(record["azimuth_deg"], angles + 1)
    want = cameras.camera_to_world(angles / 10, angles + 1, angles / 100 + 2)
    np.testing.assert_allclose(record["c2w"], want, rtol=1e-6)
    assert np.linalg.norm(record["c2w"][2, :3, 3]) == pytest.approx(4.0, rel=1e-5)
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"object {index} of a split of 4"):
            data[index]
    assert "strip" in source[1]  # the source is left alone


def test_where_a_data_set_is_looked_for(tmp_path):
    """In the folder, in multiview/VERSION below it, in VERSION; the newest of several."""
    for place in ("a", "b/multiview/1.0.0", "b/multiview/1.1.0", "c/1.0.0"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "dataset_info.json").touch()
    assert find_dataset(tmp_path / "a") == tmp_path / "a"
    assert find_dataset(tmp_path / "b") == tmp_path / "b/multiview/1.1.0"
    assert find_dataset(str(tmp_path / "c")) == tmp_path / "c/1.0.0"
    for shipped in (None, "samples"):
        assert multiview.SAMPLES in find_dataset(shipped).parents


def write_rendered(folder, names):
    (folder / "objects").mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"resolution": 6, "sets": 1, "seed": 3}))
    for k, name in enumerate(names):
        numbers = np.arange(3, dtype=np.float32) + k
        np.savez(
            folder / "objects" / f"{name}.npz", images=VIEWS + np.uint8(k),
            azimuth_deg=numbers, elevation_deg=numbers / 10, fov_deg=numbers + 20,
            distance=numbers + 2, set_index=np.zeros(3, np.int32),
            **{text: f"{text} of {name}" for text in TEXTS} | dict(split="validation", name=name),
        )  # fmt: skip


def test_preparing_again_replaces_what_was_there(tmp_path):
    write_rendered(tmp_path / "one", ["b", "a"])
    folder = prepare(tmp_path / "one", tmp_path / "out")
    assert folder == tmp_path / "out" / "multiview" / "1.0.0"
    data = open_dataset(tmp_path / "out", "all")
    records = {record["name"]: record for record in data}
    assert (
        set(records) == {"a", "b"} and data.resolution == 6 and data.path == str(tmp_path / "out")
    )
    record = records["a"]
    np.testing.assert_array_equal(record["images"], VIEWS + np.uint8(1))
    for name, first in dict(azimuth_deg=1.0, elevation_deg=0.1, fov_deg=21.0, distance=3.0).items():
        assert record[name][0] == pytest.approx(first), name
    for text in set(TEXTS) - {"split", "name"}:
        assert record[text] == f"{text} of a"
    with pytest.raises(UserError, match=r"train split .* is empty \(it has validation 2\)"):
        open_dataset(tmp_path / "out", "train")
    write_rendered(tmp_path / "two", ["c"])
    prepare(tmp_path / "two", tmp_path / "out")
    assert [r["name"] for r in open_dataset(tmp_path / "out", "validation")] == ["c"]
    assert not (tmp_path / "out" / ".preparing").exists()
    (tmp_path / "none" / "objects").mkdir(parents=True)
    with pytest.raises(UserError, match="no object in .* could be rendered"):
        prepare(tmp_path / "none", tmp_path / "out")
