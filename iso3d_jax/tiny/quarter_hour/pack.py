"""Packs rendered data sets into one file that `iso3d_jax.tiny.quarter_hour` trains on.

    python -m iso3d_jax.data.render --assets MESHES --out data/furniture128 --resolution 128
    python -m iso3d_jax.tiny.quarter_hour.pack --data data/furniture128,data/zero_ad128 \
        --out data/quarter_hour.zip

Views are stored as WebP that loses something of their colours, and their alpha as it is. How many
views, of what quality, and of how many objects is found out on a few objects: as many views of as
high a quality as let all objects in, and where none do, as many objects of each set as fit. The
test split keeps at most `--held_out` objects of each set and the validation split 16. Beside the
objects the file has who made them, and the weights of EfficientNet-Lite0 that the image tower
needs, so that the machine that trains has nothing to fetch.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from iso3d_jax.commands import command_line
from iso3d_jax.core.errors import UserError

flags = command_line.flags_for(__name__)

_DATA = flags.DEFINE_list(
    "data", None, "folders of rendered data sets, with commas between", required=True
)
_OUT = flags.DEFINE_string("out", None, "the file to write, NAME.zip", required=True)
_MEGABYTES = flags.DEFINE_float("megabytes", 60.0, "the most that it may have", 0.05, 1e4)
_HELD_OUT = flags.DEFINE_integer("held_out", 100, "test objects of each set, at most", 1, 10_000)

VALIDATION = 16  # objects of each set, at most: what previews show
SAMPLE = 48  # objects that sizes are found out on
# What is tried in this order until all objects fit: sets of four views, and WebP's quality. Six
# views more of the same object say less than a clean picture, and two sets are the least that there
# is a reference beside the views in.
CHOICES = tuple((sets, quality) for sets in (6, 4, 3) for quality in (80, 65, 50)) + ((2, 50),)
_BESIDE = 400  # bytes of an object beside its pictures: names, cameras, the zip's own
_SPARE = 0.97  # of the file, since the sample is no more than a sample


@dataclasses.dataclass(frozen=True)
class Choice:
    """How data are packed.

    Attributes:
      views: of each object, the first ones.
      quality: of WebP.
      share: of the training objects that are taken, about.
    """

    views: int
    quality: int
    share: float = 1.0


def choose(
    bytes_of: Mapping[int, float], views: int, objects: int, held_out: int, budget: float
) -> Choice:
    """The first of `CHOICES` that fits, or so many objects of the last.

    Args:
      bytes_of: a view's bytes at each quality, about.
      views: that objects have.
      objects: training objects.
      held_out: other objects, which are taken in any case.
      budget: bytes.

    Raises:
      UserError: not even the held-out objects fit.
    """
    tried = [(4 * sets, quality) for sets, quality in CHOICES if 4 * sets <= views]
    size = 0.0
    for count, quality in tried:
        size = count * bytes_of[quality] + _BESIDE
        if size * (objects + held_out) <= _SPARE * budget:
            return Choice(count, quality)
    share = (_SPARE * budget / size - held_out) / objects
    if share * objects < 1:
        raise UserError(
            f"{budget / 1e6:g} MB hold no training object beside {held_out} held-out ones: give "
            "more --megabytes, or fewer --held_out"
        )
    return Choice(*tried[-1], share)


def pack(
    data: Sequence[str], out: str | Path, *, megabytes: float = 60.0, held_out: int = 100
) -> Choice:
    """Packs data sets; see the module's docstring.

    Args:
      data: folders, of as many views of one size.
      out: the file.

    Returns:
      What was chosen.

    Raises:
      UserError: data sets that do not fit each other, two of one name, or too small a file.
    """
    from iso3d_jax.core.files import atomic_path
    from iso3d_jax.core.progress import Progress
    from iso3d_jax.data import packed
    from iso3d_jax.data.multiview import EmptySplit, find_dataset, open_dataset, strips
    from iso3d_jax.data.orthogonal_sets import CAMERA, SET, check_sets
    from iso3d_jax.tiny.dense_tower import load_encoder

    out = Path(out)
    if out.suffix != packed.SUFFIX:
        raise UserError(f"--out {out}: the file's name has to end in {packed.SUFFIX}")
    names = [Path(path).name for path in data]
    if len(set(names)) < len(names):
        raise UserError(f"--data: two data sets have the same name ({', '.join(names)})")
    opened: dict[tuple[str, str], Any] = {}
    for name, path in zip(names, data, strict=True):
        for split in ("test", "validation", "train"):
            try:
                opened[name, split] = open_dataset(path, split)
            except EmptySplit:
                if split != "validation":
                    raise
    shapes = set()
    for name in names:
        first = opened[name, "train"][0]
        check_sets(first, name)
        shapes.add(first["images"].shape)
    if len({shape[1:] for shape in shapes}) > 1:
        raise UserError(
            f"--data: the pictures have different sizes ({', '.join(map(str, sorted(shapes)))}): "
            "render the sets with equal --resolution"
        )
    views = min(shape[0] for shape in shapes)
    if views < 2 * SET:
        raise UserError(f"--data: objects need {2 * SET} views at least, and these have {views}")

    chosen = {
        key: _spread(len(found), VALIDATION if key[1] == "validation" else held_out)
        for key, found in opened.items()
        if key[1] != "train"
    }
    train = {name: len(opened[name, "train"]) for name in names}
    features = _features(load_encoder())
    budget = megabytes * 1e6 - len(features)
    bytes_of = _measure([opened[name, "train"] for name in names], views)
    how = choose(bytes_of, views, sum(train.values()), sum(len(c) for c in chosen.values()), budget)
    for name in names:
        chosen[name, "train"] = _spread(train[name], max(1, int(how.share * train[name])))

    def encoded(key: tuple[str, str], index: int) -> tuple[dict[str, Any], bytes]:
        record = dict(opened[key][index])
        for column in CAMERA:
            record[column] = record[column][: how.views]
        return record, strips.encode_views(record["images"][: how.views], quality=how.quality)

    # Held-out objects first. Training objects take turns, so that what does not fit after all is
    # of all sets alike.
    order = [(key, int(i)) for key, some in chosen.items() if key[1] != "train" for i in some]
    order += _in_turns({(name, "train"): chosen[name, "train"] for name in names})
    progress = Progress(len(order), "packing", unit="object")
    size, left_out = 0, 0
    with atomic_path(out) as temporary, ThreadPoolExecutor(8) as pool:
        writer = packed.Writer(temporary)
        for name, path in zip(names, data, strict=True):
            credits = find_dataset(path).parent.parent / "CREDITS.md"
            if credits.is_file():
                content = credits.read_bytes()
                writer.put(f"{name}/CREDITS.md", content)
                size += len(content)
        writer.put(packed.FEATURES, features)
        for done, (key, (record, strip)) in enumerate(
            zip((key for key, _ in order), _ahead(pool, encoded, order), strict=True), 1
        ):
            if size + len(strip) + _BESIDE <= budget:
                writer.add(*key, record, strip)
                size += len(strip) + _BESIDE
            else:
                left_out += 1
            progress.update(done)
        resolution = next(iter(shapes))[1]
        writer.close(names, resolution=resolution, views=how.views, quality=how.quality)
    progress.close()
    taken = {key: len(packed.read_facts(packed.Place(out, key[0]))[key[1]]) for key in chosen}
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, {how.views} views of {resolution} pixels of "
        f"each object, WebP of quality {how.quality}"
    )
    for name in names:
        print(
            f"  {name}: {taken[name, 'train']} of {train[name]} training objects, "
            f"{taken.get((name, 'validation'), 0)} of validation, {taken[name, 'test']} of test"
        )
    return how


def _spread(total: int, count: int) -> np.ndarray:
    """Indices of so many things evenly spaced in a list, or of all."""
    return np.linspace(0, total - 1, min(total, count)).round().astype(int)


def _in_turns(parts: Mapping[tuple[str, str], np.ndarray]) -> list[tuple[tuple[str, str], int]]:
    """Entries of several lists, mixed evenly, each list's own spread over its whole length."""
    rng = np.random.default_rng(0)
    entries = [
        ((place + 0.5) / len(some), key, int(i))
        for key, some in parts.items()
        for place, i in enumerate(rng.permutation(some))
    ]
    return [(key, i) for _, key, i in sorted(entries)]


def _ahead(pool: ThreadPoolExecutor, function, order) -> Iterator[Any]:
    """`function(*entry)` of each entry in order, a few of them ahead."""
    waiting = []
    for entry in order:
        waiting.append(pool.submit(function, *entry))
        if len(waiting) > 32:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _measure(sets: Sequence[Sequence[dict[str, Any]]], views: int) -> dict[int, float]:
    """A view's bytes at each quality, of training objects of all sets by their numbers."""
    from iso3d_jax.data.multiview import strips

    total = sum(map(len, sets))
    qualities = sorted({quality for _, quality in CHOICES})
    size = dict.fromkeys(qualities, 0.0)
    for one in sets:
        some = _spread(len(one), max(1, round(SAMPLE * len(one) / total)))
        for index in some:
            images = one[int(index)]["images"][:views]
            for quality in qualities:
                each = len(strips.encode_views(images, quality=quality)) / len(images)
                size[quality] += each * len(one) / total / len(some)
    return size


def _features(encoder: Mapping[str, Any]) -> bytes:
    """Weights as the bytes of a safetensors file, in half precision."""
    from iso3d_jax.weights.safetensors_file import write_safetensors

    kind = np.dtype(np.float16)
    entries = [
        (path, weight.shape, kind, functools.partial(np.asarray, weight, kind))
        for path, weight in encoder.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.safetensors"
        write_safetensors(file, entries)
        return file.read_bytes()


def main(_argv):
    """Packs what the flags name."""
    pack(_DATA.value, _OUT.value, megabytes=_MEGABYTES.value, held_out=_HELD_OUT.value)


if __name__ == "__main__":
    command_line.run(main)
