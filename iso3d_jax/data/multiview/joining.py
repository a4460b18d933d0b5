"""Makes one data set of its shards, from their manifests alone: no record is read.

What is written: `dataset_info.json`, `features.json` and `metadata.json`, which tensorflow-datasets
reads; `CREDITS.md`, who made what under which licence; `skipped.txt`, what was left out and why,
and what others lack that were rendered; and `icons/NAME.png`, the catalogues' own pictures. All of
it is written as it is read, in the order of the shards.
"""

from __future__ import annotations

import array
import base64
import collections
import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.progress import Progress
from iso3d_jax.data import places, quality
from iso3d_jax.data.multiview import records, shards

_CREDITS = (
    "# Credits\n\nThe pictures here are renders of these objects.\n\n"
    "| object | title | creator | licence | source |\n| --- | --- | --- | --- | --- |\n"
)
_RELEASE_NOTES = {
    "1.0.0": "First format: PNG strips, cameras, names, licences.",
    "1.1.0": "Each view a picture of its own: lossless WebP, or PNG.",
}


def find_shards(out: epath.Path) -> list[shards.Shard]:
    """The shards of a data set, all of which are done.

    Raises:
      UserError: there are none, of several numbers, or some are not done.
    """
    there = places.names(out / "manifests")
    matches = [m for name in there if (m := re.fullmatch(r"(\d{5})-of-(\d{5})\.jsonl", name))]
    found = {shards.Shard(int(m[1]), int(m[2])) for m in matches}
    if not found:
        raise UserError(f"{out} has no shard that is done; make them with data.render --shard")
    counts = sorted({shard.count for shard in found})
    if len(counts) > 1:
        raise UserError(
            f"{out}/manifests are of {counts[0]} and of {counts[1]} shards; delete those of one "
            "number"
        )
    wanted = [shards.Shard(k, counts[0]) for k in range(counts[0])]
    missing = [shard for shard in wanted if shard not in found]
    if missing:
        raise UserError(
            f"{len(missing)} of {counts[0]} shards of {out} are not done; run data.render with "
            f"--shard {missing[0].index}/{counts[0]}" + (" and so on" if len(missing) > 1 else "")
        )
    return wanted


def join_shards(out: epath.Path) -> dict[str, int]:
    """Makes a data set that `open_dataset` reads of shards that are done.

    Args:
      out: folder of the data set, with manifests/, multiview/ and settings.json.

    Returns:
      Objects by split, and under 'left out' how many were refused.

    Raises:
      UserError: some shards are not done, a file of theirs is gone, or nothing was rendered.
    """
    wanted = find_shards(out)
    folder = shards.records_folder(out)
    files, icons = places.names(folder), places.names(out / "icons")
    lengths = {split: [0] * len(wanted) for split in records.SPLITS}
    sizes: collections.Counter[str] = collections.Counter()
    left_out = 0
    progress = Progress(len(wanted), "join", unit="shards")
    with contextlib.ExitStack() as stack:
        credits = _text_file(stack, out / "CREDITS.md")
        skipped = _text_file(stack, out / "skipped.txt")
        credits.write(_CREDITS)
        for shard in wanted:
            for entry in shards.read_manifest(shards.manifest_file(out, shard)):
                name, split = entry["name"], entry["split"]
                if entry["status"] == shards.REFUSED:
                    left_out += 1
                    skipped.write(f"{name}\t{entry['reason']}\n")
                    continue
                lengths[split][shard.index] += 1
                sizes[split] += entry["bytes"]
                credits.write(_credit(entry))
                if entry.get("lacks"):
                    skipped.write(f"{name}\trendered, but {entry['lacks']}\n")
                if entry.get("icon") and f"{name}.png" not in icons:
                    with places.whole_file(out / "icons" / f"{name}.png") as temporary:
                        temporary.write_bytes(base64.b64decode(entry["icon"]))
            for split in records.SPLITS:
                file = shards.record_file(out, split, shard)
                if lengths[split][shard.index] and file.name not in files:
                    raise UserError(
                        f"{file} is gone; delete {shards.manifest_file(out, shard)} and run "
                        "data.render of its shard again"
                    )
            if progress.worth_an_end():
                progress.update(shard.index + 1)
    if progress.worth_an_end():
        progress.close()
    if not sizes:
        raise UserError(f"no object in {out} could be rendered; see {out}/skipped.txt")
    _write_metadata(out, lengths, sizes)
    if not places.is_remote(out):
        shutil.rmtree(os.fspath(out / "partial"), ignore_errors=True)
    return {s: sum(lengths[s]) for s in records.SPLITS if sizes[s]} | {"left out": left_out}


def drop_duplicates(out: epath.Path) -> int:
    """Leaves out objects that look as an earlier one does, and writes their shards anew.

    Earlier means in an earlier shard, or by name within one. Needs the hashes that `data.render`
    notes with the filter "duplicate"; objects without one stay.

    Returns:
      How many.

    Raises:
      UserError: some shards are not done, or no object has a hash.
    """
    wanted = find_shards(out)
    hashes, ends = array.array("Q"), []
    for shard in wanted:
        hashes.extend(entry["quality"]["hash"] for entry in _hashed(out, shard))
        ends.append(len(hashes))
    if not hashes:
        raise UserError(
            f"no object of {out} has a hash; render with --filters naming duplicate among others"
        )
    found = quality.find_duplicates(np.frombuffer(hashes, np.uint64))
    kept = dict.fromkeys(found.earlier.tolist(), "")
    first = 0
    for shard, end in zip(wanted, ends, strict=True):
        for index, entry in enumerate(_hashed(out, shard), first):
            if index in kept:
                kept[index] = entry["name"]
        first = end
    first, earlier = 0, dict(zip(found.later.tolist(), found.earlier.tolist(), strict=True))
    for shard, end in zip(wanted, ends, strict=True):
        names = {
            entry["name"]: kept[earlier[index]]
            for index, entry in enumerate(_hashed(out, shard), first)
            if index in earlier
        }
        if names:
            with shards.ShardWriter(out, shard) as writer:
                for name, other in names.items():
                    writer.refuse(name, "duplicate", f"it looks as {other} does")
                writer.finish()
        first = end
    return len(earlier)


def _hashed(out: epath.Path, shard: shards.Shard) -> Iterator[dict[str, Any]]:
    """The entries of a shard's objects whose likeness is known."""
    for entry in shards.read_manifest(shards.manifest_file(out, shard)):
        if entry["status"] == shards.RENDERED and "hash" in entry.get("quality", {}):
            yield entry


def _text_file(stack: contextlib.ExitStack, file: epath.Path):
    temporary = stack.enter_context(places.whole_file(file))
    return stack.enter_context(open(temporary, "w", encoding="utf-8"))


def _credit(entry: dict[str, Any]) -> str:
    keys = ("name", "title", "creator", "license", "source")
    return "| " + " | ".join(str(entry[key]).replace("|", "/") for key in keys) + " |\n"


def _write_metadata(out: epath.Path, lengths: dict[str, list[int]], sizes: dict[str, int]) -> None:
    """The three files by which tensorflow-datasets knows the records; the first of them last."""
    from google.protobuf import json_format  # comes with tensorflow-datasets

    folder = shards.records_folder(out)
    settings = json.loads((out / "settings.json").read_text())
    metadata = {key: value for key, value in settings.items() if key != "shards"}
    info = {
        "description": "Renders of 3D objects from sets of cameras around them.",
        "fileFormat": "array_record",
        "moduleName": records.__name__,
        "name": records.NAME,
        "releaseNotes": _RELEASE_NOTES,
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": str(sizes[split]),
                "shardLengths": [str(length) for length in lengths[split]],
            }
            for split in records.SPLITS
            if sizes[split]
        ],
        "version": records.VERSION,
    }
    features = json_format.MessageToJson(
        records.features(records.options(settings)).to_proto(), indent=4, sort_keys=True
    )
    places.write_text(folder / "features.json", features)
    places.write_text(folder / "metadata.json", json.dumps(metadata))
    places.write_text(folder / "dataset_info.json", json.dumps(info, indent=2))
