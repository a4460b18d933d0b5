"""Records of a multi-view data set: what tensorflow-datasets calls an example, and its features.

One record an object. Its views are PNGs, kept as bytes (`strips.py`), and the rest is plain numbers
and strings, so that neither writing nor reading needs TensorFlow. The same object gives the same
bytes in every process.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from iso3d_jax.data.multiview import strips

NAME = "multiview"
VERSION = "1.1.0"
SPLITS = ("train", "validation", "test")
NUMBERS = ("azimuth_deg", "elevation_deg", "fov_deg", "distance")
TEXTS = ("name", "title", "category", "creator", "license", "source", "split")


@functools.lru_cache(1)
def features():
    """The `tfds.features.FeaturesDict` of a record."""
    import tensorflow_datasets as tfds

    def numbers(dtype):
        return tfds.features.Tensor(shape=(None,), dtype=dtype)

    return tfds.features.FeaturesDict(
        {"strip": tfds.features.Text(), "set_index": numbers(np.int32)}  # bytes of PNGs
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
    example["strip"] = (
        record["strip"] if "strip" in record else strips.encode_views(record["images"])
    )
    proto = _serializer().get_tf_example(features().encode_example(example))
    return proto.SerializeToString(deterministic=True)  # else the order of keys is by chance
