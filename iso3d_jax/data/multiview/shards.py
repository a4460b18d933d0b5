"""One shard of a data set: its files, its manifest, and how a killed process goes on with it.

    OUT/manifests/00003-of-00100.jsonl                 one JSON line an object; the shard is done
    OUT/multiview/1.1.0/multiview-train.array_record-00003-of-00100   and the same of other splits
    OUT/partial/00003-of-00100/00000.array_record      what an unfinished shard has so far

A hash of its name says which shard an object is in. In a shard objects lie in the order of their
names, so the files depend on neither the order in which they were made nor on where it broke off.
An entry of a manifest has `name`, `split`, `status` ("rendered" or "refused"), `reason` (of what
was refused), `title`, `category`, `creator`, `license`, `source`, `lacks` (what could not be drawn
of an object that was), `bytes` of its record, and `icon`, a PNG in base64, where there is one.
`quality` has what `data/quality.py` measured, and `filter` the name of the filter that refused it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import FolderLock
from iso3d_jax.data import places
from iso3d_jax.data.multiview import records
from iso3d_jax.data.names import hash_name, parse_part

MOST_SHARDS = 10_000
# A group of records is decompressed as a whole; PNGs get no smaller.
OPTIONS = "group_size:1,uncompressed"
SAVE_BYTES, SAVE_SECONDS = 64 << 20, 20.0  # of what is lost at most where a process is killed
RENDERED, REFUSED = "rendered", "refused"


class Shard(NamedTuple):
    """One of `count` shards; `index` counts from 0."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index:05d}-of-{self.count:05d}"

    def holds(self, name: str) -> bool:
        """Whether the object of that name belongs here."""
        return hash_name(name) % self.count == self.index

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that "i/n" is.

        Raises:
          UserError: it is none.
        """
        part = parse_part(text)
        if part is not None and part[1] <= MOST_SHARDS:
            return cls(*part)
        raise UserError(
            f"--shard {shorten(text, 60)}: not a shard; 3/100 is the fourth of a hundred, which "
            f"are numbered 0 to 99, and {MOST_SHARDS:,} are the most"
        )


def choose_count(objects: int) -> int:
    """How many shards so many objects make: one a thousand, and a thousand at most."""
    return min(max(1, -(-objects // 1000)), 1000)


def records_folder(out: epath.Path) -> epath.Path:
    """The folder of a data set's records and of what tensorflow-datasets reads of them."""
    return out / records.NAME / records.VERSION


def record_file(out: epath.Path, split: str, shard: Shard) -> epath.Path:
    """The file of a shard's records of one split; it is not there where there are none."""
    return records_folder(out) / f"{records.NAME}-{split}.array_record-{shard}"


def manifest_file(out: epath.Path, shard: Shard) -> epath.Path:
    """The file whose presence says that a shard is done."""
    return out / "manifests" / f"{shard}.jsonl"


def read_manifest(file: epath.Path) -> Iterator[dict[str, Any]]:
    """The entries of a manifest, by name, as they are read.

    Raises:
      UserError: a line of it is damaged.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if not {"name", "split", "status"} <= entry.keys():
                    raise ValueError
            except (ValueError, AttributeError):
                raise UserError(
                    f"line {number} of the manifest {file} is damaged; delete the file and run "
                    "data.render of its shard again"
                ) from None
            yield entry


def read_done(out: epath.Path, shard: Shard) -> dict[str, str] | None:
    """The status of each object of a shard that is done, by name; None where it is not done."""
    file = manifest_file(out, shard)
    if not file.exists():
        return None
    return {entry["name"]: entry["status"] for entry in read_manifest(file)}


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, sort_keys=True).encode() + b"\n"


@contextlib.contextmanager
def _array_record(file: epath.Path) -> Iterator[Any]:
    """A writer of a file that is there once the block ends without an error."""
    from array_record.python.array_record_module import ArrayRecordWriter

    with places.whole_file(file) as temporary:
        writer = ArrayRecordWriter(str(temporary), OPTIONS)
        try:
            yield writer
        finally:
            writer.close()


def open_array_record(file: Path) -> Any:
    """A reader of the records of a file on a disk, at random: `.read([k])[0]`."""
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(str(file), "readahead_buffer_size:0", file_reader_buffer_size=32768)


class _Place(NamedTuple):
    """Where an unfinished shard keeps an object's record."""

    file: Path
    position: int


class ShardWriter:
    """One shard while it is made. Use as a context manager or call `close`.

    `entries` are those that it has, by name. What `add` was given is on the disk after
    `SAVE_SECONDS` or `SAVE_BYTES`; `finish` makes the shard of it. A shard that was done before is
    taken apart again, for objects that are to be added to it.
    """

    def __init__(self, out: epath.Path, shard: Shard, *, retry: Collection[str] = ()):
        """
        Args:
          out: folder of the data set.
          shard: which of its shards.
          retry: names of objects to forget if they were refused.

        Raises:
          UserError: another process is at it.
        """
        self.out, self.shard = out, shard
        self.entries: dict[str, dict[str, Any]] = {}
        self._places: dict[str, _Place] = {}
        self._pending: list[tuple[dict[str, Any], bytes]] = []
        self._pending_bytes = 0
        self._saved = time.monotonic()
        self._folder = places.make(out / "partial" / str(shard))
        self._stack = contextlib.ExitStack()
        if not places.is_remote(out):  # in a bucket two processes do the same twice, no more
            self._stack.enter_context(FolderLock(Path(self._folder)))
        self._pieces = sorted(n for n in places.names(self._folder) if n.endswith(".array_record"))
        self._next = 1 + max((int(n.partition(".")[0]) for n in self._pieces), default=-1)
        self._read = functools.lru_cache(64)(open_array_record)  # files are closed when they go
        for name in self._pieces:
            self._take_in(self._folder / name)
        if manifest_file(out, shard).exists():
            self._reopen()
        for name in retry:
            if name in self.entries and self.entries[name]["status"] == REFUSED:
                del self.entries[name]

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Writes down what it has and lets others have the shard."""
        try:
            self.save()
        finally:
            self._read.cache_clear()
            self._stack.close()

    def add(self, entry: dict[str, Any], record: bytes | None) -> None:
        """Takes an object: its entry, and its record where it was not refused."""
        if record is not None:
            entry = entry | {"bytes": len(record)}
        self.entries[entry["name"]] = entry
        self._pending.append((entry, record or b""))
        self._pending_bytes += len(record or b"")
        late = time.monotonic() - self._saved >= SAVE_SECONDS
        if late or self._pending_bytes >= SAVE_BYTES:
            self.save()

    def refuse(self, name: str, filter: str, reason: str) -> None:
        """Leaves out an object that it has, by a filter."""
        entry = {k: v for k, v in self.entries[name].items() if k not in ("bytes", "icon")}
        self.add(entry | {"status": REFUSED, "filter": filter, "reason": reason}, None)

    def save(self) -> None:
        """Writes what was added since to the disk."""
        self._saved = time.monotonic()
        if not self._pending:
            return
        file = self._folder / f"{self._next:05d}.array_record"
        with _array_record(file) as writer:
            for entry, record in self._pending:
                writer.write(_line(entry) + record)
        self._next += 1
        self._pending, self._pending_bytes = [], 0
        self._take_in(file)

    def _take_in(self, file: epath.Path) -> None:
        """Notes what a piece holds. What is damaged of it is as if it had not been made."""
        local = Path(self._stack.enter_context(places.on_disk(file)))
        try:
            reader = open_array_record(local)
        except (RuntimeError, ValueError):
            return
        for position in range(reader.num_records()):
            with contextlib.suppress(RuntimeError, ValueError, TypeError, KeyError):
                entry = json.loads(reader.read([position])[0].partition(b"\n")[0])
                self.entries[entry["name"]] = entry
                self._places[entry["name"]] = _Place(local, position)

    def _reopen(self) -> None:
        """Makes an unfinished shard of one that is done."""
        manifest = manifest_file(self.out, self.shard)
        readers: dict[str, Any] = {}
        positions = dict.fromkeys(records.SPLITS, 0)
        for entry in read_manifest(manifest):
            record, split = None, entry["split"]
            if entry["status"] == RENDERED:
                if split not in readers:
                    file = record_file(self.out, split, self.shard)
                    local = self._stack.enter_context(places.on_disk(file))
                    readers[split] = open_array_record(local)
                record = readers[split].read([positions[split]])[0]
                positions[split] += 1
            if entry["name"] not in self.entries:
                self.add(entry, record)
        self.save()
        # The data set is none until it is joined again.
        (records_folder(self.out) / "dataset_info.json").unlink(missing_ok=True)
        manifest.unlink()

    def finish(self) -> None:
        """Writes the shard's files, its manifest last, and gives its lock back."""
        self.save()
        entries = [self.entries[name] for name in sorted(self.entries)]
        places.make(records_folder(self.out))
        for split in records.SPLITS:
            file = record_file(self.out, split, self.shard)
            of_split = [e for e in entries if e["split"] == split and e["status"] == RENDERED]
            if not of_split:
                file.unlink(missing_ok=True)
                continue
            with _array_record(file) as writer:
                for entry in of_split:
                    piece = self._places[entry["name"]]
                    stored = self._read(piece.file).read([piece.position])[0]
                    writer.write(stored.partition(b"\n")[2])
        with places.whole_file(manifest_file(self.out, self.shard)) as temporary:
            with open(temporary, "wb") as file:
                file.writelines(map(_line, entries))
        self._read.cache_clear()
        for name in places.names(self._folder) - {".lock"}:
            (self._folder / name).unlink(missing_ok=True)
        self._stack.close()


def write_shards(
    out: epath.Path, count: int, items: Iterable[tuple[dict[str, Any], bytes | None]]
) -> None:
    """Makes the shards of a data set that is made at once, from entries and their records."""
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(ShardWriter(out, Shard(k, count))) for k in range(count)
        ]  # fmt: skip
        for entry, record in items:
            writers[hash_name(entry["name"]) % count].add(entry, record)
        for writer in writers:
            writer.finish()
