"""Multi-view data sets on disk: opening one and making one from rendered objects.

    from iso3d_jax.data.multiview import open_dataset
    data = open_dataset("samples", "train")
    len(data), data[0]["images"].shape        # 18, (24, 64, 64, 4)

Reading goes through tensorflow-datasets' `as_data_source` on ArrayRecord files and preparing
through its builder; neither needs TensorFlow.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from iso3d_jax.core.errors import UserError

SAMPLES = pathlib.Path(__file__).parent.parent / "samples"
BUILDER_NAME = "multiview"
_HOW = (
    "make one with: python -m iso3d_jax.data.render --assets DIR_OR_SH3F --out DIR; or give "
    "'samples' for the small one that ships with the package"
)


class MultiViewDataset(Sequence):
    """One split of a data set, read from disk at each access.

    `self[i]` is a dict:
      images uint8 [N, H, W, 4] (straight alpha), azimuth_deg, elevation_deg, fov_deg, distance
      float32 [N], c2w float32 [N, 4, 4] (OpenGL), set_index int32 [N] (views 4k to 4k+3 are one
      orthogonal set), and the strings name, title, category, creator, license, source, split.
    """

    def __init__(self, source, split: str, path: str, resolution: int | None):
        self._source = source
        self.split = split
        self.path = path
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        from iso3d_jax.data.multiview.multiview_dataset_builder import decode_strip
        from iso3d_jax.geometry import cameras

        if not -len(self) <= index < len(self):
            raise IndexError(f"object {index} of a split of {len(self)}")
        stored = dict(self._source[int(index) % len(self)])
        strip = stored.pop("strip")
        record: dict[str, Any] = {
            key: value.decode() if isinstance(value, bytes) else np.asarray(value)
            for key, value in stored.items()
        }
        record["images"] = decode_strip(strip, len(record["azimuth_deg"]))
        record["c2w"] = np.asarray(
            cameras.camera_to_world(
                record["elevation_deg"], record["azimuth_deg"], record["distance"]
            )
        )
        return record

    def __repr__(self) -> str:
        return f"MultiViewDataset({self.path!r}, split={self.split!r}, objects={len(self)})"


def _prepared_folder(path: pathlib.Path) -> pathlib.Path:
    """The folder that holds dataset_info.json: `path` itself or path/multiview/VERSION."""
    candidates = [path, *sorted(path.glob(f"{BUILDER_NAME}/*")), *sorted(path.glob("*.*.*"))]
    for folder in reversed(candidates):
        if (folder / "dataset_info.json").is_file():
            return folder
    if (path / "objects").is_dir():
        raise UserError(
            f"{path} holds renders that are not finished: run the same data.render command again"
        )
    raise UserError(f"{path} is not a multi-view data set (no dataset_info.json in it); {_HOW}")


def find_dataset(path: str | os.PathLike | None) -> pathlib.Path:
    """The folder of a data set's files; says without reading them whether there is one.

    Args:
      path: what `data.render --out` was given; None or "samples" for the shipped 24 objects.

    Raises:
      UserError: no such folder, or no data set in it.
    """
    root = SAMPLES if path is None or str(path) == "samples" else pathlib.Path(path)
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
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as e:
        raise UserError(
            f"the data set in {folder} cannot be read ({str(e).splitlines()[0]}); {_HOW}"
        ) from e
    features = builder.info.features
    if (
        builder.name != BUILDER_NAME
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
    source = builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]
    resolution = (builder.info.metadata or {}).get("resolution")
    return MultiViewDataset(source, split, str(path or "samples"), resolution)


def prepare(
    rendered: str | os.PathLike, out: str | os.PathLike, names: Sequence[str] | None = None
) -> pathlib.Path:
    """Turns a folder of renders into a data set that `open_dataset` reads, replacing an old one.

    Args:
      rendered: folder with objects/*.npz and settings.json.
      out: folder of the data set; may be the same.
      names: the objects to take; all of the folder if None.

    Returns:
      The folder of the records.

    Raises:
      UserError: nothing was rendered.
    """
    import tensorflow_datasets as tfds

    from iso3d_jax.data.multiview.multiview_dataset_builder import Builder

    rendered, out = pathlib.Path(rendered), pathlib.Path(out)
    if not any((rendered / "objects").glob("*.npz")):
        raise UserError(f"no object in {rendered} could be rendered; see {rendered}/skipped.txt")
    partial = out / ".preparing"
    shutil.rmtree(partial, ignore_errors=True)
    builder = Builder(
        rendered=str(rendered),
        names=None if names is None else list(names),
        data_dir=str(partial),
        file_format="array_record",
    )
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # it says it downloads; nothing is
        builder.download_and_prepare()
    final = out / BUILDER_NAME
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial / BUILDER_NAME, final)
    shutil.rmtree(partial, ignore_errors=True)
    return final / str(builder.version)
