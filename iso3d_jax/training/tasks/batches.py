"""Batches of stages 1 and 2, a pure function of (seed, step) and of nothing else.

A resumed run sees what an unbroken one would have seen, on any number of hosts. `Batches` draws
objects of a set in memory with replacement, step by step; `GrainBatches` goes through a set on disk
in a global shuffle, epoch after epoch, read ahead by threads or processes. Both read latents
computed once (`data/encoded.py`), pictures (`data/picture_table.py`), or a mixture of several sets
(`mixtures.py`). In the place of an object that cannot be read comes the one after it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import absl.flags
import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.damaged import DamagedRecord
from iso3d_jax.data.orthogonal_sets import SET
from iso3d_jax.data.table import sample_targets
from iso3d_jax.geometry.cameras import WITH_LENS, camera_condition
from iso3d_jax.training.spec import StageSpec
from iso3d_jax.training.tasks.damage import Damage
from iso3d_jax.training.tasks.mixtures import Mixture, Table
from iso3d_jax.training.tasks.order import Order

READ_AHEAD = 2  # batches, and at least as many rows as there are threads
KEPT = 1000  # branches of steps
THREADS = 16  # that read rows


DIGESTED = 64  # objects that tell a set from another


def branch_shares(cfg: StageSpec) -> dict[str, float]:
    """What share of the steps each branch of a stage has; those that no step runs are left out.

    The shares of `Batches.branch`: plain pictures or not, one view or several, and in stage 2 with
    or without the reference, drawn independently.
    """
    without = cfg.reference_dropout if cfg.stage == 2 else 1.0
    others = 1.0 - cfg.picture_share
    shares = {"0-a": cfg.picture_share} | {
        f"{stage}-{views}": others * of_stage * of_views
        for stage, of_stage in (("1", without), ("2", 1.0 - without))
        for views, of_views in (("a", cfg.single_view_share), ("b", 1.0 - cfg.single_view_share))
    }
    return {branch: share for branch, share in shares.items() if share > 0}


def data_digest(table: Table) -> int:
    """Tells a set of objects from another: its size, and names and cameras of up to 64 of them.

    Latents are left out: another device encodes the same pictures to others in the last bit.
    """
    digest = zlib.crc32(str(len(table)).encode())
    for index in np.unique(np.linspace(0, len(table) - 1, DIGESTED).astype(int)):
        try:
            record, name = table.record(int(index)), table.name(int(index))
        except DamagedRecord:
            continue
        angles = np.stack([record.azimuth_deg, record.elevation_deg]).astype(np.float32)
        digest = zlib.crc32(name.encode() + angles.tobytes(), digest)
    return digest


class Batches:
    """Views, cameras and embeddings of objects drawn from a set in memory."""

    def __init__(self, cfg: StageSpec, table: Table, pictures: Table | None = None):
        """
        Args:
          pictures: plain ones, an object's single view each, which steps of branch 0-a read.
        """
        self.cfg, self.table, self.pictures = cfg, table, pictures
        self._branches: dict[int, str] = {}
        self.damage = Damage(table, cfg.max_damaged_share)
        if pictures is not None:
            self._damage_of_pictures = Damage(pictures, cfg.max_damaged_share)
        self.with_lens = cfg.model.camera_encoding in WITH_LENS
        if self.with_lens and not table.has_lens:
            raise UserError(
                f"this model is told fields of view and distances ({cfg.model.camera_encoding}), "
                "and the data set does not have them: encode or render it again"
            )
        sets = table.num_views // SET
        needed = -(-cfg.num_views // SET)
        if sets < needed + (cfg.num_views > SET):
            raise UserError(
                f"num_views {cfg.num_views} needs {needed + 1} sets of {SET} views of each object "
                f"(one for the reference), but the data set has {sets}: render it with more views"
            )

    def branch(self, step: int) -> str:
        """'1-a', '1-b', '2-a' or '2-b'; in stage 2 a '1-' step is one without the reference.
        '0-a' is one of plain pictures."""
        name = self._branches.get(step)  # every row of a step asks
        if name is None:
            if len(self._branches) > KEPT:
                self._branches = {}
            name = self._branches[step] = self._draw_branch(step)
        return name

    def _draw_branch(self, step: int) -> str:
        cfg = self.cfg
        single, with_reference, plain = np.random.default_rng([cfg.seed, step, 1]).random(3)
        if plain < cfg.picture_share:
            return "0-a"
        stage = "2" if cfg.stage == 2 and with_reference >= cfg.reference_dropout else "1"
        return f"{stage}-{'a' if single < cfg.single_view_share else 'b'}"

    def names(self, step: int) -> list[str]:
        """The objects of a step's batch."""
        if self.branch(step) == "0-a":
            return self._names_of_pictures(step)
        rng = np.random.default_rng([self.cfg.seed, step])
        return [self.table.name(i) for i in self._objects(rng)]

    def _names_of_pictures(self, step: int) -> list[str]:
        rows = range(self.cfg.batch_size)
        return [_given(self.pictures).name(self._picture(step, row)) for row in rows]

    def _picture(self, step: int, row: int) -> int:
        """Which picture a row of a step of branch 0-a shows."""
        rng = np.random.default_rng([self.cfg.seed, step, row, 3])
        return int(rng.integers(len(_given(self.pictures))))

    def _read_picture(self, step: int, row: int) -> dict:
        """A picture as the single view, its own embedding the context; no camera."""
        pictures = _given(self.pictures)
        rng = np.random.default_rng([self.cfg.seed, step, row, 2])
        variant = int(rng.integers(len(pictures.mirrored)))
        record = self._damage_of_pictures.record(self._picture(step, row))
        return self._damage_of_pictures.skip(
            record, lambda record: record.read(variant, 0, np.array([0]), False)
        )

    def position(self) -> dict[str, int]:
        """What a checkpoint has to say of where the loader is, beside the step: nothing."""
        return {}

    def restore_position(self, position: dict[str, int]) -> None:
        """Goes on from a checkpoint's position."""

    def _objects(self, rng: np.random.Generator) -> np.ndarray:
        """A step's objects; of a weighted mixture each set's share is its weight."""
        size, table = self.cfg.batch_size, self.table
        if not isinstance(table, Mixture) or table.weights is None:
            return rng.integers(len(table), size=size)
        which = rng.choice(len(table.weights), size=size, p=table.weights)
        return table.starts[which] + rng.integers(table.lengths[which])

    def __call__(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """The step's batch, or those of its rows that `rows` picks."""
        if self.branch(step) == "0-a":
            chosen = np.arange(self.cfg.batch_size)[rows]
            return _stack([self._read_picture(step, int(row)) for row in chosen])
        rng = np.random.default_rng([self.cfg.seed, step])
        records = [self.damage.record(int(i)) for i in self._objects(rng)]
        drawn = self._draw(rng, step, records)
        chosen = range(self.cfg.batch_size)[rows] if isinstance(rows, slice) else rows
        return self._finish(
            _stack([self._read(step, records[i], *(d[i] for d in drawn)) for i in chosen])
        )

    def _draw(self, rng: np.random.Generator, step: int, records: list):
        """Reference view, variant [B] and views [B, V] of some objects."""
        cfg, size, sets = self.cfg, len(records), self.table.num_views // SET
        azimuth = [record.azimuth_deg for record in records]
        target, ref = sample_targets(rng, sets, azimuth, cfg.front_share)
        variant = rng.integers(len(self.table.mirrored), size=size)
        order = rng.integers(SET, size=size)[:, None] + np.arange(SET)
        views = target[:, None] * SET + order % SET  # which view of the set comes first varies
        if cfg.num_views > SET:  # views of further sets, never the reference's
            more = -(-cfg.num_views // SET) - 1
            others = [
                rng.permutation(np.setdiff1d(np.arange(sets), [t, r // SET]))[:more]
                for t, r in zip(target, ref, strict=True)
            ]
            further = np.asarray(others)[..., None] * SET + np.arange(SET)
            views = np.concatenate([views, further.reshape(size, -1)], 1)
        return ref, variant, views[:, : 1 if self.branch(step).endswith("a") else cfg.num_views]

    def _read(self, step: int, record, ref, variant, views) -> dict:
        """One row of a batch, of the object or where it is damaged of the next that is not."""
        return self.damage.skip(record, lambda record: self._row(step, record, ref, variant, views))

    def _row(self, step: int, record, ref, variant, views) -> dict:
        """Views of an object; azimuths count from the reference."""
        sign = -1.0 if self.table.mirrored[variant] else 1.0
        azimuth, elevation = record.azimuth_deg, record.elevation_deg
        lens = {}
        if self.with_lens:
            lens = {
                "fov_deg": record.fov_deg[views],
                "distance": record.distance[views],
                "reference_fov_deg": record.fov_deg[[ref]],
                "reference_distance": record.distance[[ref]],
            }
        return {
            "azimuth_deg": sign * (azimuth[views] - azimuth[ref]),
            "elevation_deg": elevation[views],
            "reference_elevation_deg": elevation[[ref]],
            **lens,
            **record.read(variant, ref, views, self.branch(step).startswith("2")),
        }

    def _finish(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Angles and lenses to cameras."""
        if "azimuth_deg" not in batch:  # of plain pictures
            return batch
        azimuth, elevation = batch.pop("azimuth_deg"), batch.pop("elevation_deg")
        reference = batch.pop("reference_elevation_deg")
        encoding = self.cfg.model.camera_encoding
        lens = [batch.pop(name, None) for name in ("fov_deg", "distance")]
        of_reference = [batch.pop(f"reference_{name}", None) for name in ("fov_deg", "distance")]
        batch["camera"] = camera_condition(elevation, azimuth, encoding, *lens)
        if "reference_moments" in batch or "reference_view" in batch:
            batch["reference_camera"] = camera_condition(
                reference, np.zeros_like(reference), encoding, *of_reference
            )
        return batch


class GrainBatches(Batches):
    """All objects in a global shuffle by the seed, another one each epoch; rows read ahead.

    Object number p of the run is the shuffle's entry p, whichever host reads it, so each host reads
    its own rows of every step's batch and the run is the same on any number of hosts. Of a weighted
    mixture each set has a shuffle of its own, and they take turns by their weights.
    """

    def __init__(self, cfg: StageSpec, table: Table, pictures: Table | None = None):
        super().__init__(cfg, table, pictures)
        if isinstance(table, Mixture) and table.weights is not None:
            self._order = Order(cfg.seed, table.lengths.tolist(), table.weights.tolist())
        else:
            self._order = Order(cfg.seed, [len(table)])
        self._iterator: Iterator[dict] | None = None
        self._rows, self._next = np.arange(0), 0

    def _object(self, step: int, row: int) -> int:
        return self._order[step * self.cfg.batch_size + row]

    def names(self, step: int) -> list[str]:
        if self.branch(step) == "0-a":
            return self._names_of_pictures(step)
        return [self.table.name(self._object(step, row)) for row in range(self.cfg.batch_size)]

    def position(self) -> dict[str, int]:
        """The step of the next batch."""
        return {} if self._iterator is None else {"next_index": self._next}

    def restore_position(self, position: dict[str, int]) -> None:
        self._next = position.get("next_index", 0)

    def __call__(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        chosen = np.arange(self.cfg.batch_size)[rows]
        if self._iterator is None or self._next != step or not np.array_equal(chosen, self._rows):
            self._iterator, self._rows = self._read_ahead(step, chosen), chosen
        batch = next(self._iterator)
        self._next = step + 1
        return self._finish(batch)

    def read_row(self, step: int, row: int) -> dict:
        """A row of a step's batch, by itself."""
        if self.branch(step) == "0-a":
            return self._read_picture(step, row)
        record = self.damage.record(self._object(step, row))
        rng = np.random.default_rng([self.cfg.seed, step, row, 2])
        return self._read(step, record, *(d[0] for d in self._draw(rng, step, [record])))

    def _read_ahead(self, first: int, rows: np.ndarray) -> Iterator[dict]:
        """These rows of the batches from a step on.

        In threads of this process each reads single rows. In processes each makes every n-th batch,
        so that no row is sent by itself.
        """
        import grain

        size, processes = len(rows), self.cfg.read_processes
        numbers = grain.MapDataset.range(first * size, max(self.cfg.steps, first + 1) * size)
        read = numbers.map(_Reader(self, rows))
        if processes:
            if not absl.flags.FLAGS.is_parsed():  # called from Python: grain asks them there
                absl.flags.FLAGS.mark_as_parsed()
            options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
            batches = read.batch(size, batch_fn=_stack).to_iter_dataset(options)
            return iter(batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=processes)))
        options = grain.ReadOptions(
            num_threads=THREADS, prefetch_buffer_size=max(THREADS, READ_AHEAD * size)
        )
        return iter(read.to_iter_dataset(options).batch(size, batch_fn=_stack))

    def __getstate__(self) -> dict[str, Any]:
        return {"cfg": self.cfg, "table": self.table, "pictures": self.pictures}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


class _Reader:
    """From a number among a run's rows to the row; it is sent to processes."""

    def __init__(self, batches: GrainBatches, rows: np.ndarray):
        self._batches, self._rows = batches, rows

    def __call__(self, number: int) -> dict:
        step, row = divmod(number, len(self._rows))
        return self._batches.read_row(step, int(self._rows[row]))


def make_batches(cfg: StageSpec, table: Table, pictures: Table | None = None) -> Batches:
    """The loader that `cfg.loader` names."""
    return {"memory": Batches, "grain": GrainBatches}[cfg.loader](cfg, table, pictures)


def _given(pictures: Table | None) -> Table:
    """Plain pictures, of a run that has a share for them."""
    if pictures is None:
        raise ValueError("a run with a picture_share needs pictures")
    return pictures


def _stack(rows) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
