"""Records of a multi-view data set: what tensorflow-datasets calls an example, and its features.

One record an object. Its views are pictures, kept as bytes (`strips.py`), and the rest is plain
numbers and strings, so that neither writing nor reading needs TensorFlow. The same object gives the
same bytes in every process. What the settings of a data set ask for, all its records have beside
that: layers (`data/layers.py`), `light` (the numbers of `lights.Light`), `background` (sRGB in
[0, 1]).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from iso3d_jax.data import layers
from iso3d_jax.data.layers import LAYERS
from iso3d_jax.data.multiview import strips
from iso3d_jax.data.orthogonal_sets import CAMERA

NAME = "multiview"
VERSION = "1.1.0"
SPLITS = ("train", "validation", "test")
NUMBERS = CAMERA
TEXTS = ("name", "title", "category", "creator", "license", "source", "split")


def options(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that records of a data set of these settings have beside what all have."""
    light = ("light",) if settings.get("light", "even") != "even" else ()
    background = ("background",) if settings.get("background") else ()
    return (*settings.get("layers", ()), *light, *background)


@functools.lru_cache(8)
def features(more: tuple[str, ...] = ()):
    """The `tfds.features.FeaturesDict` of a record with some options."""
    import tensorflow_datasets as tfds

    def numbers(dtype):
        return tfds.features.Tensor(shape=(None,), dtype=dtype)

    return tfds.features.FeaturesDict(
        {"strip": tfds.features.Text(), "set_index": numbers(np.int32)}  # bytes of pictures
        | {key: numbers(np.float32) for key in NUMBERS}
        | {key: tfds.features.Text() for key in TEXTS}
        | {key: tfds.features.Text() if key in LAYERS else numbers(np.float32) for key in more}
    )


@functools.lru_cache(8)
def _serializer(more: tuple[str, ...]):
    from tensorflow_datasets.core import example_serializer

    specs: Any = features(more).get_serialized_info()
    return example_serializer.ExampleSerializer(specs)


def encode_layer(layer: str, values: np.ndarray, distance: Float[np.ndarray, " N"]) -> bytes:
    """A layer of all views as the bytes of a record.

    Args:
      values: [N, ...] of what `Rasterizer.render_layer` gives.
      distance: of the cameras from the object's middle.
    """
    if layer == "depth":
        values = layers.encode_depth(values, distance)
    elif layer == "normals":
        values = layers.encode_normals(values)
    return strips.encode_views(values)


def decode_layer(layer: str, data: bytes, distance: Float[np.ndarray, " N"]) -> np.ndarray:
    """The inverse of `encode_layer`."""
    count = len(distance)
    if layer == "depth":
        return layers.decode_depth(strips.decode_views(data, count, mode="I;16"), distance)
    if layer == "normals":
        return layers.decode_normals(strips.decode_views(data, count, mode="RGB"))
    return strips.decode_views(data, count)


def serialize(record: Mapping[str, Any], more: tuple[str, ...] = ()) -> bytes:
    """The bytes of a record.

    Args:
      record: as `MultiViewDataset` gives them; `strip` in place of `images`, and bytes in place of
        a layer, where they are encoded already.
      more: the options that it has.
    """
    example: dict[str, Any] = {key: np.asarray(record[key], np.float32) for key in NUMBERS}
    example |= {key: str(record[key]) for key in TEXTS}
    example["set_index"] = np.asarray(record["set_index"], np.int32)
    example["strip"] = (
        record["strip"] if "strip" in record else strips.encode_views(record["images"])
    )
    for key in more:
        value = record[key]
        if key not in LAYERS:
            value = np.asarray(value, np.float32)
        elif not isinstance(value, bytes):
            value = encode_layer(key, value, example["distance"])
        example[key] = value
    proto = _serializer(more).get_tf_example(features(more).encode_example(example))
    return proto.SerializeToString(deterministic=True)  # else the order of keys is by chance
