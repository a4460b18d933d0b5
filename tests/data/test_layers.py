"""Depth and normals as the bytes that records keep."""

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import layers
from iso3d_jax.data.multiview import open_dataset, records, write_dataset


def test_depth_is_kept_to_thirty_thousandths_and_nothing_stays_nothing():
    rng = np.random.default_rng(0)
    distance = np.array([1.7, 8.7], np.float32)
    depth = (distance[:, None, None] + rng.uniform(-1, 1, (2, 5, 6))).astype(np.float32)
    depth[0, 0], depth[0, 1, 0] = 0, distance[0] - 1.05
    codes = layers.encode_depth(depth, distance)
    assert codes.dtype == np.uint16 and not codes[0, 0].any() and codes[0, 1, 0] == 1
    found = layers.decode_depth(codes, distance)
    np.testing.assert_allclose(found, depth, atol=2e-5)
    np.testing.assert_array_equal(layers.encode_depth(found, distance), codes)


def test_normals_are_kept_to_half_a_degree():
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(4, 50, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[0, :3] = np.diag([-1.0, -1.0, 1.0])
    normals[1, 0] = 0
    codes = layers.encode_normals(normals)
    found = layers.decode_normals(codes)
    assert codes.dtype == np.uint8 and not found[1, 0].any()
    cosine = (found * normals).sum(-1)
    assert np.delete(cosine.ravel(), 50).min() > np.cos(np.radians(0.5))


def test_settings_say_what_records_have():
    assert records.options({"resolution": 8}) == records.options({"light": "even"}) == ()
    settings = {"layers": ["depth"], "light": "seeded", "background": "white"}
    assert records.options(settings) == ("depth", "light", "background")
    with pytest.raises(UserError, match="--layers mask: there is no such layer"):
        layers.check_layers(["mask"])
    assert layers.check_layers(["albedo", "depth"]) == ("depth", "albedo")


def test_records_that_are_read_can_be_written_again(tmp_path):
    record = open_dataset("samples", "test")[0]
    rng = np.random.default_rng(0)
    more = {"background": np.array([0.1, 0.2, 0.3], np.float32), "light": np.arange(7.0)}
    more["depth"] = (record["distance"][:, None, None] + rng.uniform(-1, 1, (24, 8, 8))).astype(
        "f4"
    )
    settings = {"resolution": 64, "layers": ["depth"], "light": "seeded", "background": "random"}
    write_dataset(tmp_path / "a", [record | more], settings)
    (first,) = open_dataset(tmp_path / "a", "test")
    np.testing.assert_allclose(first["depth"], more["depth"], atol=2e-5)
    write_dataset(tmp_path / "b", [first], settings)
    (second,) = open_dataset(tmp_path / "b", "test")
    for key in ("depth", "light", "background", "images", "set_index"):
        np.testing.assert_array_equal(second[key], first[key])
