"""The files of an encoded set: shards of latents, and what is read at the start.

A folder holds

    encoding.json                            what is encoded, from what and how; written first
    latents-00003-of-00020.array_record      the latents of one range of objects
    objects-00003-of-00020.npz               their names and cameras; written after the latents,
                                             so its presence says that the shard is done
    cameras.npy                              float32 [N, 4, M], `orthogonal_sets.CAMERA`;
                                             [N, 2, M], two, of pictures whose lens nobody knows
    names.npy, name_ends.npy                 all names as UTF-8 bytes, and where each one ends
    encoded.json                             written last: the set is complete

A record of latents holds one group of views (an orthogonal set, or the single view of a set of
plain pictures) of one variant of one object, since that is what a row of a batch reads: two of them
are a tenth of the object. Its bytes are `HEADER` (mark, object within the shard, variant, group),
then moments float16 [V, h, w, 2C], then embeddings float16 [V, D]. Every record is a chunk of its
own (`group_size:1`), not compressed, and ArrayRecord checks its hash when it is read. Names and
cameras are no records: ArrayRecord finds a chunk of a few hundred bytes by going through those
before it in a block of 64 KB, which takes eight times as long as a record of latents.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from iso3d_jax.core.arrays_file import read_arrays
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import atomic_path
from iso3d_jax.core.json_files import need, read_object
from iso3d_jax.data.damaged import DAMAGE, DamagedRecord
from iso3d_jax.data.orthogonal_sets import CAMERA, SET

HEADER = struct.Struct("<4sIHH4x")  # 16 bytes, so that float16 arrays behind it are aligned
MARK = b"I3E2"
OPEN_FILES = 256  # shards that are open at a time; a process may often have 1,024 files
_AGAIN = "encode the data set again"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes of an encoded set that every record has.

    Attributes:
      variants: of colours, each as it is and mirrored; odd ones are mirrored.
      views: of an object.
      group: views of a record, which `views` is a multiple of.
      latent: [h, w, 2C] of a view's moments.
      width: of an embedding.
    """

    variants: int
    views: int
    group: int
    latent: tuple[int, int, int]
    width: int

    @property
    def groups(self) -> int:
        return self.views // self.group

    @property
    def records(self) -> int:
        """Records of an object."""
        return self.variants * self.groups

    @property
    def nbytes(self) -> int:
        """Of a record."""
        return HEADER.size + 2 * self.group * (int(np.prod(self.latent)) + self.width)

    def to_bytes(self, item: int, variant: int, group: int, moments, embedding) -> bytes:
        """A record, of the object's moments [M, h, w, 2C] and embeddings [M, D] of a variant."""
        views = slice(group * self.group, (group + 1) * self.group)
        parts = [np.ascontiguousarray(a[views], "<f2").tobytes() for a in (moments, embedding)]
        return b"".join([HEADER.pack(MARK, item, variant, group), *parts])

    def from_bytes(
        self, data: bytes, item: int, variant: int, group: int
    ) -> tuple[Float[np.ndarray, "V h w D2"], Float[np.ndarray, "V D"]]:
        """A record's moments and embeddings, which share its memory.

        Raises:
          ValueError: another record, or one of another size.
        """
        if len(data) != self.nbytes:
            raise ValueError(f"a record has {len(data)} bytes, not {self.nbytes}")
        if HEADER.unpack_from(data) != (MARK, item, variant, group):
            raise ValueError("a record is of another object")
        numbers = np.frombuffer(data, "<f2", offset=HEADER.size)
        split = self.group * int(np.prod(self.latent))
        return (
            numbers[:split].reshape(self.group, *self.latent),
            numbers[split:].reshape(self.group, self.width),
        )


def layout_of(variants: int, views: int, latent: Sequence[int], width: int) -> Layout:
    """Records of orthogonal sets, or of single views where an object has no whole ones."""
    group = SET if views % SET == 0 else 1
    return Layout(variants, views, group, (latent[0], latent[1], latent[2]), width)


def ranges(objects: int, shard_objects: int) -> list[range]:
    """The objects of each shard: even parts in order, of at most `shard_objects` each."""
    count = max(1, -(-objects // shard_objects))
    ends = [objects * k // count for k in range(count + 1)]
    return [range(a, b) for a, b in zip(ends, ends[1:], strict=False)]


def latents_file(folder: Path, shard: int, count: int) -> Path:
    return folder / f"latents-{shard:05d}-of-{count:05d}.array_record"


def objects_file(folder: Path, shard: int, count: int) -> Path:
    return folder / f"objects-{shard:05d}-of-{count:05d}.npz"


class ShardWriter:
    """Writes one shard; nothing of it is there until the block ends without an error.

    with ShardWriter(folder, 3, 20) as shard:
        shard.add(name, cameras, moments, embedding)
    """

    def __init__(self, folder: Path, shard: int, count: int):
        self._folder, self._which = folder, (shard, count)
        self._layout: Layout | None = None  # the first object's
        self._names: list[str] = []
        self._cameras: list[np.ndarray] = []

    def __enter__(self) -> ShardWriter:
        import array_record.python.array_record_module as array_record

        final = latents_file(self._folder, *self._which)
        for left in self._folder.glob(f".{final.stem}.*"):  # of a process that was killed
            left.unlink(missing_ok=True)
        self._context = atomic_path(final)
        self._writer = array_record.ArrayRecordWriter(
            str(self._context.__enter__()), "group_size:1,uncompressed"
        )
        return self

    def add(
        self,
        name: str,
        cameras: Float[np.ndarray, "K M"],
        moments: Float[np.ndarray, "A M h w D2"],
        embedding: Float[np.ndarray, "A M D"],
    ) -> None:
        """Appends an object, all variants of it; `cameras` are the rows of `CAMERA`, or two."""
        if self._layout is None:
            variants, views, *latent = moments.shape
            self._layout = layout_of(variants, views, latent, embedding.shape[-1])
        layout, item = self._layout, len(self._names)
        for variant in range(layout.variants):
            for group in range(layout.groups):
                self._writer.write(
                    layout.to_bytes(item, variant, group, moments[variant], embedding[variant])
                )
        self._names.append(name)
        self._cameras.append(np.asarray(cameras, np.float32))

    def __exit__(self, *error) -> None:
        if self._writer.is_open():
            self._writer.close()
        self._context.__exit__(*error)
        if error[0] is not None:
            return
        if self._layout is None:
            raise UserError(f"no object of shard {self._which[0]} of {self._folder} can be read")
        with atomic_path(objects_file(self._folder, *self._which)) as temporary:
            np.savez(
                temporary,
                cameras=np.stack(self._cameras),
                layout=json.dumps(dataclasses.asdict(self._layout)),
                **dict(zip(("names", "name_ends"), _pack(self._names), strict=True)),
            )


def _pack(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Texts as bytes one after another, and where each one ends."""
    coded = [name.encode() for name in names]
    return np.frombuffer(b"".join(coded), np.uint8), np.cumsum([len(c) for c in coded], dtype=int)


def finish(folder: Path, count: int, facts: dict[str, Any]) -> bool:
    """Makes a folder complete whose shards are all done; says whether they are.

    Of several processes that end at a time each may do it: they write the same.

    Args:
      count: of shards.
      facts: what encoded.json says beside sizes.
    """
    done = [objects_file(folder, shard, count) for shard in range(count)]
    if not all(path.is_file() for path in done):
        return False
    cameras, names, ends, sizes, chars, layouts = [], [], [], [], 0, set()
    for path in done:
        remedy = "delete it, and the same command makes its shard again"
        stored = read_arrays(path, remedy, ("layout", "cameras", "names", "name_ends"))
        layouts.add(str(stored["layout"]))
        cameras.append(stored["cameras"])
        names.append(stored["names"])
        ends.append(stored["name_ends"] + chars)
        chars += len(names[-1])
        sizes.append(len(cameras[-1]))
    if len(layouts) > 1:
        raise UserError(f"{folder} has shards of different networks: delete it and {_AGAIN}")
    if len({len(of_shard[0]) for of_shard in cameras}) > 1:
        raise UserError(f"{folder} has shards with and without lenses: delete it and {_AGAIN}")
    columns = dict(cameras=cameras, names=names, name_ends=ends)
    for name, parts in columns.items():
        with atomic_path(folder / f"{name}.npy") as temporary:
            np.save(temporary, np.concatenate(parts))
    with atomic_path(folder / "encoded.json") as temporary:  # last: its presence says complete
        facts = facts | json.loads(layouts.pop()) | {"shards": sizes}
        temporary.write_text(json.dumps(facts) + "\n")
    return True


class ShardReader:
    """A complete set: names, cameras and records at random. Nothing of it is held but sizes.

    It may be used by several threads at once, and sent to another process.
    """

    def __init__(self, folder: str | Path):
        """Looks at sizes alone; no shard is opened yet.

        Raises:
          UserError: no complete set, one of an earlier version, or a damaged one.
        """
        self.folder = folder = Path(folder)
        if not (folder / "encoded.json").exists():
            begun = (folder / "encoding.json").exists()
            raise UserError(
                f"the encoding in {folder} is not complete: run the same data.encode command again"
                if begun
                else f"no encoded data set in {folder}: make one with "
                f"python -m iso3d_jax.data.encode --data DIR --out {folder}"
            )
        if (folder / "moments.npy").exists():
            # Minutes of work, against a second reader that nothing at scale would ever run.
            raise UserError(
                f"the set in {folder} was encoded by an earlier version, whose files hold all "
                f"objects in one array: delete it and {_AGAIN}"
            )
        self.facts = read_object(folder / "encoded.json", _AGAIN)
        numbers = {
            key: need(self.facts, key, int, folder, least=1)
            for key in ("variants", "views", "group", "width")
        }
        latent = need(self.facts, "latent", list, folder)
        self.layout = Layout(**numbers, latent=tuple(latent))
        self.sizes = np.asarray(need(self.facts, "shards", list, folder), np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self._cameras, self._names, self._ends = map(self._map, ("cameras", "names", "name_ends"))
        if len(self._cameras) != len(self) or len(self._ends) != len(self):
            raise UserError(f"{folder} has files of different sets: {_AGAIN}")
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[int, Any] = collections.OrderedDict()

    def __getstate__(self):
        return {"folder": self.folder}

    def __setstate__(self, state):
        self.__init__(state["folder"])

    def _map(self, name: str) -> np.ndarray:
        file = self.folder / f"{name}.npy"
        try:
            return np.load(file, mmap_mode="r")
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            raise UserError(f"{file} is damaged ({shorten(error)}); {_AGAIN}") from None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def name(self, index: int) -> str:
        begin = self._ends[index - 1] if index else 0
        return bytes(self._names[begin : self._ends[index]]).decode()

    @property
    def has_lens(self) -> bool:
        """Whether fields of view and distances are known."""
        return self._cameras.shape[1] == len(CAMERA)

    def cameras(self, index: int) -> Float[np.ndarray, "K M"]:
        """`CAMERA` of an object's views, or the first two of it."""
        return np.asarray(self._cameras[index])

    def group(
        self, index: int, variant: int, group: int
    ) -> tuple[Float[np.ndarray, "V h w D2"], Float[np.ndarray, "V D"]]:
        """Moments and embeddings of one group of views.

        Raises:
          DamagedRecord: it cannot be read.
        """
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        item = int(index - self._starts[shard])
        number = item * self.layout.records + variant * self.layout.groups + group
        try:
            data = self._reader(shard).read(number, number + 1)[0]
            return self.layout.from_bytes(data, item, variant, group)
        except DAMAGE as error:
            file = latents_file(self.folder, shard, len(self.sizes))
            raise DamagedRecord(
                f"record {number} of {file} is damaged ({shorten(error, 120)}): delete the file "
                "and its .npz, and encode again, which makes this shard alone"
            ) from None

    def _reader(self, shard: int):
        """An open shard; the one that was not used for longest is closed where there are many."""
        import array_record.python.array_record_module as array_record

        with self._lock:
            reader = self._open.get(shard)
            if reader is not None:
                self._open.move_to_end(shard)
                return reader
        file = latents_file(self.folder, shard, len(self.sizes))
        reader = array_record.ArrayRecordReader(
            str(file), "readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=32768
        )
        there, wanted = reader.num_records(), int(self.sizes[shard]) * self.layout.records
        if there != wanted:
            raise ValueError(f"the file has {there} records, not {wanted}")
        with self._lock:
            reader = self._open.setdefault(shard, reader)
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)  # closed when nobody reads from it any more
        return reader
