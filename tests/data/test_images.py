"""Floats to bytes."""

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.images import to_uint8


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
def test_every_byte_comes_back(dtype):
    bytes_ = np.arange(256, dtype=np.uint8).reshape(2, 128)
    floats = (bytes_ / np.float64(255)).astype(dtype)
    np.testing.assert_allclose(to_uint8(floats), bytes_, atol=dtype == jnp.bfloat16)
    assert to_uint8(floats).dtype == np.uint8 and to_uint8(bytes_) is bytes_


def test_the_nearest_byte_and_nothing_beyond():
    values = np.array([-0.1, 0.0, 0.4 / 255, 0.6 / 255, 127.4 / 255, 0.5, 254.6 / 255, 1.0, 7.0])
    want = [0, 0, 0, 1, 127, 128, 255, 255, 255]
    assert to_uint8(values).tolist() == want and to_uint8(jnp.asarray(values)).tolist() == want
    # In bfloat16 the product itself would be rounded: 0.65625 * 255 is 167.34.
    assert to_uint8(jnp.full((), 0.65625, jnp.bfloat16)) == 167
