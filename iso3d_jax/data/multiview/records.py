"""Records of a multi-view data set: what tensorflow-datasets calls an example, and its features.

One record an object. The views of an object are one PNG, side by side, kept as bytes, and the
rest is plain numbers and strings, so that neither writing nor reading needs TensorFlow. The same
object gives the same bytes in every process.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from iso3d_jax.core.images import open_as

# Of zlib: a third less time than its default for 3% more bytes.
LEVEL = 5
NAME = "multiview"
VERSION = "1.0.0"
SPLITS = ("train", "validation", "test")
NUMBERS = ("azimuth_deg", "elevation_deg", "fov_deg", "distance")
TEXTS = ("name", "title", "category", "creator", "license", "source", "split")


def encode_strip(images: UInt8[np.ndarray, "N H W 4"]) -> bytes:
    """Views side by side as one lossless PNG."""
    strip = np.ascontiguousarray(np.concatenate(list(images), axis=1))
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, "PNG", compress_level=LEVEL)
    return buffer.getvalue()


def decode_strip(data: bytes, count: int) -> UInt8[np.ndarray, "N H W 4"]:
    """The views of `encode_strip`; all square or not, all of one size."""
    strip = np.asarray(open_as(io.BytesIO(data), ["PNG"]).convert("RGBA"))
    height, width = strip.shape[0], strip.shape[1] // count
    return np.ascontiguousarray(strip.reshape(height, count, width, 4).swapaxes(0, 1))


@functools.lru_cache(1)
def features():
    """The `tfds.features.FeaturesDict` of a record."""
    import tensorflow_datasets as tfds

    def numbers(dtype):
        return tfds.features.Tensor(shape=(None,), dtype=dtype)

    return tfds.features.FeaturesDict(
        {"strip": tfds.features.Text(), "set_index": numbers(np.int32)}  # bytes of a PNG
        | {key: numbers(np.float32) for key in NUMBERS}
        | {key: tfds.features.Text() for key in TEXTS}
    )


@functools.lru_cache(1)
def _serializer():
    from tensorflow_datasets.core import example_serializer

    specs: Any = features().get_serialized_info()
    return example_serializer.ExampleSerializer(specs)


def serialize(record: Mapping[str, Any]) -> bytes:
    """The bytes of a record.

    Args:
      record: as `MultiViewDataset` gives them; `strip` in place of `images` where they are encoded
        already.
    """
    example: dict[str, Any] = {key: np.asarray(record[key], np.float32) for key in NUMBERS}
    example |= {key: str(record[key]) for key in TEXTS}
    example["set_index"] = np.asarray(record["set_index"], np.int32)
    example["strip"] = record["strip"] if "strip" in record else encode_strip(record["images"])
    proto = _serializer().get_tf_example(features().encode_example(example))
    return proto.SerializeToString(deterministic=True)  # else the order of keys is by chance
