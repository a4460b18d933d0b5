"""Batches that are on the devices before their step: two buffers, the step's and the next one's.

While the devices run a step, the host reads the batch of the next and copies it to them. It reads
no further: before that it waits for the step before the running one, so that however fast data
come, the devices hold two batches and a step's inputs are never many. Each process puts its own
rows and asks no other, so it does not matter that some are earlier than others.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from iso3d_jax.training import sharding


class Loader(Protocol):
    """What a task has of a loader."""

    def batch(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """These rows of the step's batch, a pure function of (seed, step)."""
        ...

    def position(self) -> dict[str, int]:
        """Where the loader is after the last batch."""
        ...


class _Held(NamedTuple):
    """A batch that is ahead of its step, or what went wrong with it."""

    step: int
    batch: dict[str, jax.Array] | Exception
    position: dict[str, int]


class BatchesAhead:
    """A task's batches as global arrays; use as a context manager.

    Attributes:
      position: of the loader after the batch that was taken last, whatever was read since: what a
        checkpoint has to say.
    """

    def __init__(
        self,
        loader: Loader,
        batch_size: int,
        device_mesh: Mesh,
        waited: Callable[[float], None] = lambda seconds: None,
    ):
        """
        Args:
          batch_size: rows of a global batch, of which this process reads its own.
          waited: is told each time for how many seconds the devices had nothing to do but wait for
            a batch.
        """
        self._loader, self._batch_size, self._mesh = loader, batch_size, device_mesh
        self._rows = sharding.local_rows(batch_size, device_mesh)
        self._waited = waited
        self._held: _Held | None = None
        self._running: Any = None  # what the last step that was begun gives
        self._ends = concurrent.futures.ThreadPoolExecutor(1, "step-ends")
        self.position: dict[str, int] = {}

    def __enter__(self) -> BatchesAhead:
        return self

    def __exit__(self, *_) -> None:
        self._ends.shutdown()

    def prepare(self, step: int, running: Any) -> None:
        """Puts the batch of a step onto the devices while the step before it runs.

        What goes wrong with it is told when the batch is taken: the step that runs is still to be
        logged and saved.

        Args:
          running: arrays that the running step gives and nobody donates.
        """
        if self._running is not None:
            jax.block_until_ready(self._running)
        self._running = running
        ended = self._ends.submit(_wait_for_end, running)
        began = time.monotonic()
        try:
            batch = self._read(step)
        except Exception as error:
            batch = error
        self._held = _Held(step, batch, self._loader.position())
        there = time.monotonic()
        if ended.done():  # before the batch was there
            self._waited(there - min(max(began, ended.result()), there))

    def take(self, step: int) -> dict[str, jax.Array]:
        """The batch of a step; read now if it was not prepared.

        Raises:
          what reading it did.
        """
        held, self._held = self._held, None
        if held is None or held.step != step:
            began = time.monotonic()
            held = _Held(step, self._read(step), self._loader.position())
            self._waited(time.monotonic() - began)
        if isinstance(held.batch, Exception):
            raise held.batch
        self.position = held.position
        return held.batch

    def _read(self, step: int) -> dict[str, jax.Array]:
        batch = self._loader.batch(step, self._rows)
        return sharding.put_batch(batch, self._batch_size, self._mesh)


def _wait_for_end(running: Any) -> float:
    """When a step was done; a step that failed is the loop's to notice."""
    with contextlib.suppress(Exception):
        jax.block_until_ready(running)
    return time.monotonic()
