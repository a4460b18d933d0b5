"""Encodes a data set once with the frozen autoencoder and image tower.

    python -m iso3d_jax.data.encode --data DIR --vae DIR --clip DIR --out DIR --variants 4

The denoiser is then trained on latents and embeddings alone. Each variant is the whole set with
its own colours (variant 0 has the objects' own), once as it is and once mirrored.
Several data sets of as many views, with commas, become one.

The set is written shard by shard (`encoded_shards.py`), so the memory does not grow with it, and a
killed run loses one shard: the same command goes on with the next. Objects go over all devices of
the machine; several machines share one --out, each with its --shard i/n.
"""

from __future__ import annotations

import collections
import functools
import itertools
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from iso3d_jax.commands import command_line
from iso3d_jax.commands.config_checks import SPLITS
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import Difference, check_folder, ensure_same_folder, make_folder
from iso3d_jax.core.progress import Progress
from iso3d_jax.data import encoded_shards, names
from iso3d_jax.data.camera_ranges import identify_range, range_of_records
from iso3d_jax.data.colour import change_colours, on_white
from iso3d_jax.data.damaged import DAMAGE, MAX_DAMAGED_SHARE, first_readable
from iso3d_jax.data.encoded import EncodedSet, EncodedTable
from iso3d_jax.data.encoded_shards import ShardWriter
from iso3d_jax.data.orthogonal_sets import CAMERA, check_sets
from iso3d_jax.data.pictures import MODES
from iso3d_jax.data.plain_pictures import PlainPictures
from iso3d_jax.data.prepared_views import prepare_views
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.models.vae import encode_pictures

flags = command_line.flags_for(__name__)

# Pixels that the autoencoder and the tower see at a time on a device, in one loop of a program:
# eight pictures of 256 x 256, whose activations at full size are a few hundred megabytes.
PIXELS = 1 << 19
AT_A_TIME = 8  # objects of a device's program at most
READ_AHEAD = 2  # batches of objects that are read and prepared while the devices work
WORKERS = 16  # threads that do it
SHARD_OBJECTS = 1024


def variant_key(seed: int, colour, index) -> jax.Array:
    """The key of an object's colour change; `colour` 0 is the object as it is."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), colour), index)


def _pictures(key, views, references, colour):
    """An object's views [V, H, W, 4] and references [R, H, W, 4], bytes, to pictures on white."""
    both = jnp.concatenate([views, references])[None].astype(jnp.float32) / 255.0
    rgb = jnp.where(colour > 0, change_colours(key, both[..., :3]), both[..., :3])
    pictures = on_white(jnp.concatenate([rgb, both[..., 3:]], -1))[0]
    return jnp.split(pictures, [len(views)])


def _moments(vae, views):
    """Autoencoder moments in the precision that encoded sets have."""
    mean, logvar = encode_pictures(vae, views)
    return jnp.concatenate([mean, logvar], -1).astype(jnp.float16)


def _in_parts(function, pictures):
    """A function of pictures [N, H, W, 3], so many at a time that `PIXELS` are not passed."""
    count, height, width = pictures.shape[:3]
    most = max(1, PIXELS // (height * width))
    part = next(n for n in range(min(count, most), 0, -1) if count % n == 0)
    if part == count:
        return function(pictures)
    parts = pictures.reshape(count // part, part, *pictures.shape[1:])
    out = jax.lax.map(function, parts)
    return out.reshape(count, *out.shape[2:])


def encode_objects(vae, clip, seed, images, prepared, numbers, variant):
    """One variant of a few objects; traceable.

    Args:
      vae, clip: the frozen networks.
      seed: of the colour changes.
      images: [B, M, H, W, 4], bytes.
      prepared: [B, K, M, H, W, 4], bytes; all views by each way of preparing references.
      numbers: [B], the objects'.
      variant: 2 x colour, and 1 more where it is mirrored.

    Returns:
      float16 moments [B, M, h, w, 2C] and embeddings [B, M, D].
    """
    size, views, ways = *images.shape[:2], prepared.shape[1]
    colour, mirror = variant // 2, variant % 2
    view = jnp.arange(views)

    def pictures(images, prepared, number):
        turn = (view + number + variant) % ways  # views take turns in how they are prepared
        key = variant_key(seed, colour, number)
        return _pictures(key, images, prepared[turn, view], colour)

    views_and_references = jax.vmap(pictures)(images, prepared, numbers)
    flat, references = (
        jnp.where(mirror > 0, x[..., ::-1, :], x).reshape(size * views, *x.shape[2:])
        for x in views_and_references
    )  # [B*M, H, W, 3]
    moments = _in_parts(functools.partial(_moments, vae), flat)
    embedding = _in_parts(lambda x: clip.embed(x).astype(jnp.float16), references)
    return (
        moments.reshape(size, views, *moments.shape[1:]),
        embedding.reshape(size, views, embedding.shape[-1]),
    )


def encode_rows(vae, clip, batch: dict, seed: int = 0) -> dict:
    """What `encode_table` would have given for a batch of pictures; traceable.

    Args:
      vae, clip: the frozen networks.
      batch: `views` [B, V, H, W, 4] and `prepared` [B, H, W, 4], bytes; `colour` and `object` [B];
        `reference_view` [B, 1, H, W, 4] where there is one; the rest is handed on.
      seed: of the colour changes.

    Returns:
      The batch with `moments`, `embedding` and `reference_moments` in the pictures' place.
    """
    batch = dict(batch)
    views, prepared = batch.pop("views"), batch.pop("prepared")
    num_views, reference = views.shape[1], batch.pop("reference_view", None)
    if reference is not None:
        views = jnp.concatenate([views, reference], 1)
    colour, index = batch.pop("colour"), batch.pop("object")
    keys = jax.vmap(lambda c, i: variant_key(seed, c, i))(colour, index)
    views, prepared = jax.vmap(_pictures)(keys, views, prepared[:, None], colour)
    moments = _moments(vae, views.reshape(-1, *views.shape[2:]))  # [B*V, h, w, 2C]
    moments = moments.reshape(*views.shape[:2], *moments.shape[1:])
    batch["moments"] = moments[:, :num_views]
    batch["embedding"] = clip.embed(prepared[:, 0]).astype(jnp.float16)
    if reference is not None:
        batch["reference_moments"] = moments[:, num_views:]
    return batch


class Encoded(NamedTuple):
    """An object of which all variants are encoded."""

    number: int
    record: dict[str, Any]
    moments: np.ndarray  # [A, M, h, w, 2C]
    embedding: np.ndarray  # [A, M, D]


class Loaded(NamedTuple):
    """An object that is ready to be encoded."""

    number: int
    record: dict[str, Any]
    ways: np.ndarray  # [K, M, H, W, 4], all views by each way of preparing references


Read = Callable[[int], dict[str, Any] | None]


class Encoder:
    """Encodes objects over all devices of this process, the same program on each.

    A device's program has as many objects, whatever the number of devices and objects, so an
    object's latents do not depend on it.
    """

    def __init__(self, vae, clip, *, variants: int, pictures: Sequence[str], seed: int = 0):
        """
        Args:
          vae, clip: the frozen networks.
          variants: of colours, each as it is and mirrored.
          pictures: how references are prepared, `data.pictures.MODES`; views take turns.
          seed: of colours.
        """
        self.variants, self._pictures, self._seed = 2 * variants, tuple(pictures), seed
        self._mesh = Mesh(np.array(jax.local_devices()), ("objects",))
        self._rows = NamedSharding(self._mesh, P("objects"))
        everywhere = NamedSharding(self._mesh, P())
        self._networks = jax.device_put((vae, clip), everywhere)
        self._compiled: Any = None
        self._size = 0

    def _program(self, arrays):
        """The compiled program for batches of these shapes."""
        seed = self._seed

        def local(networks, *batch):
            vae, clip = networks
            return encode_objects(vae, clip, seed, *batch)

        rows = P("objects")
        program = jax.jit(
            jax.shard_map(
                local, mesh=self._mesh, in_specs=(P(), rows, rows, rows, P()), out_specs=rows,
                check_vma=False,
            )
        )  # fmt: skip
        return program.lower(self._networks, *arrays, np.int32(0)).compile()

    def _load(self, number: int, read: Read) -> Loaded | None:
        """An object with its references prepared by each way, [K, M, H, W, 4]."""
        record = read(number)
        if record is None:
            return None
        ways = np.stack([prepare_views(record["images"], way) for way in self._pictures])
        return Loaded(number, record, ways)

    def _batch(self, chunk: list[Loaded]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Arrays of the program's size; what is missing repeats the last object."""
        filled = chunk + [chunk[-1]] * (self._size - len(chunk))
        return (
            np.stack([one.record["images"] for one in filled]),
            np.stack([one.ways for one in filled]),
            np.array([one.number for one in filled], np.int32),
        )

    def __call__(
        self, numbers: Iterable[int], read: Read, progress: Progress, done: int = 0
    ) -> Iterator[Encoded]:
        """Encodes objects one after another; they are read and prepared by threads meanwhile.

        Args:
          numbers: the objects', which decide their colours.
          read: gives an object's record, or None for one that is left out; several threads call it.
          progress: told of each object and variant.
          done: what it was told of already.
        """
        left = iter(numbers)
        waiting: collections.deque[Future[Loaded | None]] = collections.deque()
        window = WORKERS
        with ThreadPoolExecutor(WORKERS) as pool:

            def loaded() -> Iterator[Loaded]:
                while True:
                    for number in itertools.islice(left, max(0, window - len(waiting))):
                        waiting.append(pool.submit(self._load, number, read))
                    if not waiting:
                        return
                    if (one := waiting.popleft().result()) is not None:
                        yield one

            try:
                objects = loaded()
                chunk = list(itertools.islice(objects, 1))
                if chunk:
                    pictures = int(np.prod(chunk[0].record["images"].shape[:3]))
                    each = max(1, min(AT_A_TIME, PIXELS // pictures))
                    self._size = each * len(self._mesh.devices)
                    window = max(WORKERS, READ_AHEAD * self._size)
                while chunk:
                    chunk += itertools.islice(objects, self._size - len(chunk))
                    done += self.variants * len(chunk)
                    yield from self._encode(chunk, progress, done)
                    chunk = list(itertools.islice(objects, 1))
            finally:
                pool.shutdown(cancel_futures=True)

    def _encode(self, chunk: list[Loaded], progress: Progress, done: int) -> Iterator[Encoded]:
        """All variants of a batch's objects; `done` is what is done after them."""
        arrays = self._batch(chunk)
        if self._compiled is None:
            with progress.compiling():
                self._compiled = self._program(arrays)
        on_devices = jax.device_put(arrays, self._rows)
        outputs = []
        for variant in range(self.variants):
            found = self._compiled(self._networks, *on_devices, np.int32(variant))
            outputs.append(jax.device_get(found))
            progress.update(done - (self.variants - variant - 1) * len(chunk))
        for row, one in enumerate(chunk):
            moments, embedding = (np.stack([found[k][row] for found in outputs]) for k in range(2))
            yield Encoded(one.number, one.record, moments, embedding)


def encode_table(
    table: MultiViewTable,
    vae,
    clip,
    *,
    variants: int,
    pictures: Sequence[str],
    seed: int = 0,
    label: str = "encoding",
) -> EncodedTable:
    """Encodes every view of `variants` variants, as they are and mirrored; the result in memory.

    Args:
      vae, clip: the frozen networks.
      variants: 1 keeps the objects' own colours only.
      pictures: how references are prepared (`prepare_picture`'s modes), views taking turns.
      seed: of colours.
      label: of the progress line.
    """
    encoder = Encoder(vae, clip, variants=variants, pictures=pictures, seed=seed)
    progress = Progress(2 * variants * len(table), label, unit="object")
    encoded = list(encoder(range(len(table)), lambda i: {"images": table.images[i]}, progress))
    progress.close()
    return EncodedTable(
        moments=np.stack([one.moments for one in encoded], 1),
        embedding=np.stack([one.embedding for one in encoded], 1),
        mirrored=np.arange(2 * variants) % 2 == 1,
        azimuth_deg=table.azimuth_deg,
        elevation_deg=table.elevation_deg,
        fov_deg=table.fov_deg,
        distance=table.distance,
        names=table.names,
        camera_range=identify_range(
            *(column.ravel() for column in (table.elevation_deg, table.fov_deg, table.distance))
        ),
    )


class Joined(Sequence):
    """The objects of several rendered data sets in their order, read one by one."""

    def __init__(self, sets: Sequence[Sequence[dict[str, Any]]]):
        self._sets = list(sets)
        self._starts = np.cumsum([0] + [len(one) for one in sets])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sets[which][int(index - self._starts[which])]


def encode_shards(
    records: Sequence[dict[str, Any]],
    out: str | Path,
    encoder: Encoder,
    *,
    facts: dict[str, Any],
    shard_objects: int = SHARD_OBJECTS,
    part: tuple[int, int] = (0, 1),
    max_damaged_share: float = MAX_DAMAGED_SHARE,
    label: str = "encoding",
) -> bool:
    """Encodes a data set into a folder, from where it was stopped.

    Args:
      records: objects as `open_dataset` gives them, all with as many views of one size.
      out: the folder, which other processes may write into with other parts.
      facts: what makes the encoding this one and no other; goes into encoding.json.
      shard_objects: the most of a shard.
      part: (i, n): shards i, i + n, i + 2n and so on are made.
      max_damaged_share: of the objects; so many that cannot be read are left out.
      label: of the progress line.

    Returns:
      Whether all shards are there and the set is complete.

    Raises:
      UserError: a folder of another encoding, or objects with other pictures than the first.
    """
    folder = make_folder(out)
    shape = first_readable(records, 1)[0]["images"].shape
    facts = facts | {"objects": len(records), "pictures": list(shape), "shard": shard_objects}

    def refusal(found: list[Difference]) -> str:
        key, was, now = found[0]
        return (
            f"{folder} holds an encoding of something else ({key} was {was}, is {now}): give "
            "another --out, or delete it"
        )

    ensure_same_folder(folder / "encoding.json", facts, refusal)
    shards = encoded_shards.ranges(len(records), shard_objects)
    mine = [k for k in range(part[0], len(shards), part[1])]
    todo = [k for k in mine if not encoded_shards.objects_file(folder, k, len(shards)).exists()]
    progress = Progress(
        encoder.variants * sum(len(shards[k]) for k in mine), label, unit="object",
        start=encoder.variants * sum(len(shards[k]) for k in mine if k not in todo),
    )  # fmt: skip
    if len(todo) < len(mine):
        progress.note(f"{label}: {len(mine) - len(todo)} of {len(mine)} shards are there already")

    damaged, lock = 0, threading.Lock()

    def read(number: int) -> dict[str, Any] | None:
        nonlocal damaged
        try:
            record = records[number]
        except DAMAGE as error:
            with lock:
                damaged += 1
                progress.note(f"{label}: object {number} is left out: {shorten(error)}")
                if damaged > max_damaged_share * len(records):
                    raise UserError(
                        f"{damaged} of {len(records)} objects cannot be read, the last is number "
                        f"{number} ({shorten(error)}); render the set again, or allow more with "
                        "--max_damaged_share"
                    ) from None
            return None
        if record["images"].shape != shape:
            raise UserError(
                "data sets have pictures of different number or size: "
                f"{list(shape)} and, of {record['name']}, {list(record['images'].shape)} "
                "(views, height, width, channels); render them with equal --sets and --resolution"
            )
        return record

    done = encoder.variants * sum(len(shards[k]) for k in mine if k not in todo)
    for k in todo:
        with ShardWriter(folder, k, len(shards)) as shard:
            for one in encoder(shards[k], read, progress, done):
                shard.add(
                    str(one.record["name"]),
                    np.stack([one.record[key] for key in CAMERA if key in one.record]),
                    one.moments, one.embedding,
                )  # fmt: skip
        done += encoder.variants * len(shards[k])
    progress.close()
    return encoded_shards.finish(folder, len(shards), facts)


_DATA = flags.DEFINE_list("data", "samples", "rendered data sets; 'samples' is the shipped one")
_SPLIT = flags.DEFINE_enum("split", "train", SPLITS, "the part of the data set")
_DTYPE = flags.DEFINE_enum(*command_line.DTYPE_FLAG)
_VAE = flags.DEFINE_string(
    "vae", None, "model folder with the autoencoder; the shipped one if left out"
)
_CLIP = flags.DEFINE_string(
    "clip", None, "model folder with the image tower; the shipped one if left out"
)
_OUT = flags.DEFINE_string("out", None, "folder to write", required=True)
_VARIANTS = flags.DEFINE_integer("variants", 4, "variants of colours", 1, 1000)
_PLAIN = flags.DEFINE_string(
    "plain", None, "encode a folder of plain pictures instead, for --config.data_pictures"
)
_SHARD = flags.DEFINE_string(
    "shard", None, "i/n: make every n-th shard from the i-th on, for n processes with one --out"
)
_SHARD_OBJECTS = flags.DEFINE_integer(
    "shard_objects", SHARD_OBJECTS, "objects of a shard, which is what a kill loses", 1, 1 << 20
)
_MAX_DAMAGED_SHARE = flags.DEFINE_float(
    "max_damaged_share", MAX_DAMAGED_SHARE, "share of objects that may be unreadable", 0, 1
)
_PICTURES = flags.DEFINE_list(
    "pictures", None, f"how references are fitted to the frame ({', '.join(MODES)}), several "
    "taking turns from view to view; the image tower's own if left out",
)  # fmt: skip


def parse_part(text: str | None) -> tuple[int, int]:
    """(i, n) of "i/n"; without it this process's place among the run's.

    Raises:
      UserError: no such part.
    """
    if text is None:
        return jax.process_index(), jax.process_count()
    part = names.parse_part(text)
    if part is None:
        raise UserError(f"--shard {text}: give i/n with i from 0 to n - 1, as in 0/4")
    return part


def _digest_networks(*networks) -> int:
    """Tells weights from others; the same on any machine."""
    digest = 0
    for path, value in jax.tree_util.tree_leaves_with_path(networks):
        value = np.asarray(value)
        digest = zlib.crc32(f"{jax.tree_util.keystr(path)}{value.dtype}".encode(), digest)
        digest = zlib.crc32(value.tobytes(), digest)
    return digest


def _digest_objects(records: Sequence[dict[str, Any]]) -> int:
    """Tells a data set from others by a few of its objects."""
    digest = zlib.crc32(str(len(records)).encode())
    for index in np.unique(np.linspace(0, len(records) - 1, 8).astype(int)):
        try:
            record = records[int(index)]
        except DAMAGE:
            continue
        digest = zlib.crc32(str(record["name"]).encode(), digest)
        digest = zlib.crc32(np.asarray(record["images"]).tobytes(), digest)
    return digest


def encode_dataset(
    data: Sequence[str],
    out: str | Path,
    *,
    split: str = "train",
    vae: str | Path | None = None,
    clip: str | Path | None = None,
    variants: int = 4,
    pictures: Sequence[str] | None = None,
    dtype: str | None = None,
    shard: str | None = None,
    shard_objects: int = SHARD_OBJECTS,
    max_damaged_share: float = MAX_DAMAGED_SHARE,
    plain: str | Path | None = None,
) -> EncodedSet | None:
    """Encodes rendered data sets with frozen networks and writes the result, shard by shard.

    Args:
      data: folders of data sets with as many views each, which become one; 'samples' is shipped.
      out: folder to write; one that was begun is gone on with.
      split: the part of each data set.
      vae, clip: model folders with the autoencoder and the image tower; None is the shipped model.
      variants: of colours and proportions; the first has the objects' own.
      pictures: how references are fitted to the frame, names of `data.pictures.MODES` that take
        turns from view to view; the image tower's own if None.
      dtype: of the networks, as of `load_model`.
      shard: "i/n" makes every n-th shard from the i-th on; None this process's share of a run of
        several, which is all where there is one.
      shard_objects: the most of a shard, which is what a kill loses.
      max_damaged_share: of the objects; so many that cannot be read are left out.
      plain: a folder of plain pictures, in the place of `data` and `pictures`; each becomes an
        object of one view (`plain_pictures.py`).

    Returns:
      The set, or None where shards of other processes are not there yet.

    Raises:
      UserError: no such data set or model, an unknown name, sets that do not fit each other, a
        folder of another encoding.
    """
    from iso3d_jax.commands import paths
    from iso3d_jax.data.multiview import open_dataset
    from iso3d_jax.weights.bundle import load_model

    unknown = sorted(set(pictures or ()) - set(MODES))
    if unknown:
        raise UserError(f"--pictures has {', '.join(unknown)}: there are {', '.join(MODES)}")
    part = parse_part(shard)
    if plain:
        paths.pictures("--plain", str(plain))
    for path in () if plain else data:
        paths.dataset("--data", path)
    paths.model("--vae", vae, "vae")
    paths.model("--clip", clip, "clip")
    check_folder(out)
    autoencoder = load_model(vae, dtype, ("vae",))
    tower = load_model(clip, dtype, ("clip",))
    if plain:
        ways = ["framed"]  # as they are
        records: Sequence[dict[str, Any]] = PlainPictures(plain, autoencoder.config.resolution)
    else:
        ways = list(pictures or [tower.config.picture])
        sets = [open_dataset(path, split) for path in data]
        for path, one in zip(data, sets, strict=True):
            check_sets(first_readable(one, 1)[0], path)
        records = Joined(sets)
    facts = {
        "split": split, "colours": variants, "references": ways,
        "networks": _digest_networks(autoencoder.vae, tower.clip), "data": _digest_objects(records),
        "camera_range": range_of_records(first_readable(records, 8)),
    }  # fmt: skip
    encoder = Encoder(autoencoder.vae, tower.clip, variants=variants, pictures=ways)
    complete = encode_shards(
        records, out, encoder, facts=facts, shard_objects=shard_objects, part=part,
        max_damaged_share=max_damaged_share,
    )  # fmt: skip
    return EncodedSet(out) if complete else None


def main(argv):
    """Encodes and says how much came out."""
    del argv
    encoded = encode_dataset(
        _DATA.value, _OUT.value, split=_SPLIT.value, vae=_VAE.value, clip=_CLIP.value,
        variants=_VARIANTS.value, pictures=_PICTURES.value, dtype=_DTYPE.value,
        shard=_SHARD.value, shard_objects=_SHARD_OBJECTS.value,
        max_damaged_share=_MAX_DAMAGED_SHARE.value, plain=_PLAIN.value,
    )  # fmt: skip
    if encoded is None:
        print(f"{_OUT.value}: this process's shards are done; others are not there yet")
        return
    size = encoded.shards.layout.nbytes * encoded.shards.layout.records * len(encoded)
    print(f"{_OUT.value}: {size / 1e6:.0f} MB of latents, {len(encoded)} objects")


if __name__ == "__main__":
    command_line.run(main)
