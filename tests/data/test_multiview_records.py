"""Records of both versions, indices of a split, and where a data set is looked for."""

import io

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.data import multiview
from iso3d_jax.data.multiview import MultiViewDataset, find_dataset
from iso3d_jax.data.multiview.strips import encode_views
from iso3d_jax.geometry import cameras

VIEWS = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 4)).astype(np.uint8)


def encode_strip(images):
    """Views as version 1.0.0 has them: one PNG, side by side."""
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(images), axis=1)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("encode", [encode_strip, encode_views])
def test_a_record_is_decoded_when_it_is_asked_for(encode):
    angles = np.array([0.0, 90.0, 200.0], np.float32)
    source = [
        {"strip": encode(VIEWS), "azimuth_deg": angles + i, "elevation_deg": angles / 10,
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
