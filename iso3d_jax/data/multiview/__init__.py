"""Multi-view data sets on disk: opening one and making one from records.

    from iso3d_jax.data.multiview import open_dataset
    data = open_dataset("samples", "train")
    len(data), data[0]["images"].shape        # 18, (24, 64, 64, 4)

Records are in ArrayRecord files, read through tensorflow-datasets' `as_data_source`; neither
reading nor writing needs TensorFlow. `shards.py` has the files of a data set while it is made.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import packed, places
from iso3d_jax.data.layers import LAYERS
from iso3d_jax.data.multiview import records, shards, strips

SAMPLES = pathlib.Path(__file__).parent.parent / "samples"
_HOW = (
    "make one with: python -m iso3d_jax.data.render --assets DIR_OR_SH3F --out DIR; or give "
    "'samples' for the small one that ships with the package"
)


class MultiViewDataset(Sequence):
    """One split of a data set, read from disk at each access.

    `self[i]` is a dict:
      images uint8 [N, H, W, 4] (straight alpha), azimuth_deg, elevation_deg, fov_deg, distance
      float32 [N], c2w float32 [N, 4, 4] (OpenGL), set_index int32 [N] (views of one number are a
      set, of one height at even steps around the object; most often four), and the strings name,
      title, category, creator, license, source, split. Where the data set was rendered with them
      also depth float32 [N, H, W] along the camera's axis and normals float32 [N, H, W, 3] in the
      world, both 0 where there is nothing; albedo uint8 [N, H, W, 4]; light float32 [7]
      (`lights.Light`: ambient, hemisphere, head, key, direction) and background float32 [3] (sRGB).
    """

    def __init__(self, source, split: str, path: str, resolution: int | None):
        self._source = source
        self.split = split
        self.path = path
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        from iso3d_jax.geometry import cameras

        if not -len(self) <= index < len(self):
            raise IndexError(f"object {index} of a split of {len(self)}")
        stored = dict(self._source[int(index) % len(self)])
        strip = stored.pop("strip")
        kept = {layer: stored.pop(layer) for layer in LAYERS if layer in stored}
        record: dict[str, Any] = {
            key: value.decode() if isinstance(value, bytes) else np.asarray(value)
            for key, value in stored.items()
        }
        record["images"] = strips.decode_views(strip, len(record["azimuth_deg"]))
        for layer, data in kept.items():
            record[layer] = records.decode_layer(layer, data, record["distance"])
        record["c2w"] = np.asarray(
            cameras.camera_to_world(
                record["elevation_deg"], record["azimuth_deg"], record["distance"]
            )
        )
        return record

    def __repr__(self) -> str:
        return f"MultiViewDataset({self.path!r}, split={self.split!r}, objects={len(self)})"


def _prepared_folder(path: epath.Path) -> epath.Path:
    """The folder that holds dataset_info.json: `path` itself or path/multiview/VERSION."""
    versions = sorted(places.names(path / records.NAME))
    inside = sorted(name for name in places.names(path) if name.count(".") == 2)
    candidates = [path, *(path / records.NAME / v for v in versions), *(path / v for v in inside)]
    for folder in reversed(candidates):
        if (folder / "dataset_info.json").is_file():
            return folder
    if any((path / name).is_dir() for name in ("partial", "manifests")):
        raise UserError(
            f"{path} holds renders that are not finished: run the same data.render command again, "
            "and data.join where shards were rendered apart"
        )
    raise UserError(f"{path} is not a multi-view data set (no dataset_info.json in it); {_HOW}")


def find_dataset(path: str | os.PathLike | None) -> epath.Path:
    """The folder of a data set's files; says without reading them whether there is one.

    Args:
      path: what `data.render --out` was given; None or "samples" for the shipped 24 objects; or a
        set in a packed file (`data/packed.py`), whose own path is returned.

    Raises:
      UserError: no such folder, or no data set in it.
    """
    if place := packed.find(path):
        packed.read_facts(place)
        return epath.Path(os.fspath(path or ""))
    root = places.place(SAMPLES if path is None or str(path) == "samples" else path)
    if not root.exists():
        raise UserError(f"there is no data set at {root}; {_HOW}")
    if not root.is_dir():
        raise UserError(f"the data set {root} is a file, not a folder; {_HOW}")
    return _prepared_folder(root)


class EmptySplit(UserError):
    """A data set has no objects in a split."""


def open_dataset(path: str | os.PathLike | None, split: str) -> MultiViewDataset:
    """Opens one split of a data set.

    Args:
      path: what `data.render --out` was given; None or "samples" for the shipped 24 objects.
      split: "train", "validation", "test" or "all".

    Raises:
      EmptySplit: the set has no such objects.
      UserError: no such folder, not a data set of this format, unknown split.
    """
    import tensorflow_datasets as tfds

    folder = find_dataset(path)
    if packed.find(path):
        raise UserError(
            f"{folder} is packed, and this reads rendered folders alone: give what it was packed of"
        )
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as e:
        raise UserError(
            f"the data set in {folder} cannot be read ({str(e).splitlines()[0]}); {_HOW}"
        ) from e
    features = builder.info.features
    if (
        builder.name != records.NAME
        or not isinstance(features, tfds.features.FeaturesDict)
        or "strip" not in features
    ):
        raise UserError(
            f"{folder} is the tensorflow-datasets data set {builder.name!r}, not a multi-view one; "
            + _HOW
        )
    there = {name: info.num_examples for name, info in builder.info.splits.items()}
    if split not in ("train", "validation", "test", "all"):
        raise UserError(f"unknown split {split!r}; choose train, validation, test or all")
    if split != "all" and not there.get(split):
        counts = ", ".join(f"{name} {count}" for name, count in sorted(there.items()))
        raise EmptySplit(
            f"the {split} split of {folder} is empty (it has {counts}); render more objects, or "
            "choose another split"
        )
    source: Any = builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]
    if places.is_remote(folder):
        source.data_source = _Copies(folder, builder.info.splits[split].file_instructions)
    resolution = (builder.info.metadata or {}).get("resolution")
    return MultiViewDataset(source, split, str(path or "samples"), resolution)


class _Copies:
    """Records of files in a bucket, each file copied to the user's cache when it is first read.

    The copies belong to one state of the data set, which its dataset_info.json tells from others.
    """

    def __init__(self, folder: epath.Path, files: Sequence[Any]):
        state = os.fspath(folder).encode() + (folder / "dataset_info.json").read_bytes()
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        self._cache = cache / "iso3d_jax" / "data" / hashlib.sha256(state).hexdigest()[:16]
        self._files = [epath.Path(file.filename) for file in files]
        self._ends = list(itertools.accumulate(file.examples_in_shard for file in files))
        self._readers: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> bytes:
        file = bisect.bisect_right(self._ends, index)
        if file not in self._readers:
            copy = self._cache / self._files[file].name
            if not copy.exists():
                places.download(self._files[file], copy)
            self._readers[file] = shards.open_array_record(copy)
        first = self._ends[file - 1] if file else 0
        return self._readers[file].read([index - first])[0]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}


def write_dataset(
    out: str | os.PathLike,
    items: Iterable[Mapping[str, Any]],
    settings: Mapping[str, Any],
    *,
    count: int = 1,
) -> epath.Path:
    """Makes a data set that `open_dataset` reads of records that are made already.

    Args:
      out: a folder without a data set; may be in a bucket.
      items: records as `MultiViewDataset` gives them.
      settings: what the records have in common; 'resolution' at least, and as `render.How` has
        them 'layers', 'light' and 'background', where the records have more than all have.
      count: of shards.

    Returns:
      The folder of the records.

    Raises:
      UserError: there is a data set already, or no record.
    """
    from iso3d_jax.data.multiview import joining

    root = places.place(out)
    if (root / "settings.json").exists():
        raise UserError(f"{root} holds a data set already; give another folder")

    more = records.options(settings)

    def shard_items():
        for item in items:
            entry = {key: str(item[key]) for key in records.TEXTS}
            yield entry | {"status": shards.RENDERED, "lacks": ""}, records.serialize(item, more)

    shards.write_shards(root, count, shard_items())
    places.write_text(root / "settings.json", json.dumps({**settings, "shards": count}, indent=2))
    joining.join_shards(root)
    return shards.records_folder(root)
