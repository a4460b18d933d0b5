"""tensorflow-datasets builder of a rendered folder (what `iso3d_jax.data.render` writes).

One record an object. The views of an object are one PNG, side by side, kept as bytes, and the
rest is plain numbers and strings, so that neither preparing nor reading needs TensorFlow. The
records are ArrayRecord files, read at random by `iso3d_jax.data.multiview.open_dataset`.
"""

import io
import json
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from iso3d_jax.core.images import open_as

SPLITS = ("train", "validation", "test")
TEXTS = ("name", "title", "category", "creator", "license", "source", "split")


def encode_strip(images: UInt8[np.ndarray, "N H W 4"]) -> bytes:
    """Views side by side as one lossless PNG."""
    strip = np.ascontiguousarray(np.concatenate(list(images), axis=1))
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, "PNG")
    return buffer.getvalue()


def decode_strip(data: bytes, count: int) -> UInt8[np.ndarray, "N H W 4"]:
    """The views of `encode_strip`; all square or not, all of one size."""
    strip = np.asarray(open_as(io.BytesIO(data), ["PNG"]).convert("RGBA"))
    height, width = strip.shape[0], strip.shape[1] // count
    return np.ascontiguousarray(strip.reshape(height, count, width, 4).swapaxes(0, 1))


class Builder(tfds.core.GeneratorBasedBuilder):
    """Multi-view renders of objects; each four views are orthogonal."""

    name = "multiview"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First format: PNG strips, cameras, names, licences."}

    def __init__(self, *, rendered: str | None = None, names: list[str] | None = None, **kwargs):
        """
        Args:
          rendered: folder with `objects/*.npz` and `settings.json`; needed only to prepare.
          names: the objects to take; all if None.
          **kwargs: of the base class, `data_dir` above all.
        """
        self._rendered = pathlib.Path(rendered) if rendered else None
        self._names = None if names is None else set(names)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        settings = {"resolution": None, "sets": None, "seed": None}
        if self._rendered:
            settings = json.loads((self._rendered / "settings.json").read_text())
        numbers = tfds.features.Tensor(shape=(None,), dtype=np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Renders of 3D objects from sets of four orthogonal cameras.",
            homepage="http://www.sweethome3d.com",
            features=tfds.features.FeaturesDict(
                {
                    "strip": tfds.features.Text(),  # bytes of a PNG
                    "azimuth_deg": numbers,
                    "elevation_deg": numbers,
                    "fov_deg": numbers,
                    "distance": numbers,
                    "set_index": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                }
                | {key: tfds.features.Text() for key in TEXTS}
            ),
            metadata=tfds.core.MetadataDict(settings),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        by_split: dict[str, list[pathlib.Path]] = {split: [] for split in SPLITS}
        if self._rendered is None:
            raise ValueError("a data set is prepared from a folder of renders: give `rendered`")
        for path in sorted((self._rendered / "objects").glob("*.npz")):
            if self._names is None or path.stem in self._names:
                with np.load(path) as record:
                    by_split[str(record["split"])].append(path)
        return {s: self._generate_examples(paths) for s, paths in by_split.items() if paths}

    def _generate_examples(self, paths):
        for path in paths:
            with np.load(path) as record:
                example = {
                    key: record[key]
                    for key in ("azimuth_deg", "elevation_deg", "fov_deg", "distance", "set_index")
                }
                example |= {key: str(record[key]) for key in TEXTS}
                example["strip"] = encode_strip(record["images"])
            yield path.stem, example
