"""Checkpoints of a training run by orbax: atomic, kept by policy, resumed by the same command.

A checkpoint that is damaged on the disk (training/checksums.py) is moved to `damaged/` with a
warning, and the one before it is used. A state may be restored onto another device mesh than it was
saved from.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import jax
import numpy as np
import orbax.checkpoint as ocp

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import Difference, FolderLock, ensure_same_folder, make_folder
from iso3d_jax.core.json_files import need
from iso3d_jax.training import distributed
from iso3d_jax.training.checksums import Checksums, steps_in
from iso3d_jax.training.spec import TrainingSpec
from iso3d_jax.training.state import TrainState

# What may differ between a checkpoint and the config that resumes it.
_FREE = (
    "steps", "log_every", "checkpoint_every", "sample_every", "ablate_every", "keep", "mesh",
    "accumulate", "remat", "max_skips", "read_processes", "max_damaged_share",
)  # fmt: skip


class Checkpoints:
    """The `checkpoints/` folder of a workdir, and the config it was started with.

    Until `close` no other process may open the same workdir's.
    """

    def __init__(self, workdir: str | Path, config: TrainingSpec):
        self.workdir = make_folder(workdir).absolute()
        self._config = json.loads(json.dumps(config.to_dict()))
        self._check_config()
        self._folder = make_folder(self.workdir / "checkpoints")
        self._checksums = Checksums(self.workdir)
        self._lock = None
        if jax.process_index() == 0:
            # A second run would take a checkpoint that is being written for a damaged one.
            self._lock = FolderLock(self.workdir)
            for step in reversed(steps_in(self._folder)):
                damage = self._checksums.damage(step)
                if damage is None:
                    break
                self._put_aside(step, damage)
        distributed.barrier("checkpoints verified")  # nobody may list the folder before it is clean
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.keep, create=True, cleanup_tmp_directories=True
        )
        self.manager = ocp.CheckpointManager(self._folder, options=options)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self.manager.latest_step()

    def save(self, step: int, state, position: dict[str, int] | None = None) -> None:
        """Starts writing the state in the background, with the config and the loader's position.

        Raises:
          UserError: the disk is full; earlier checkpoints are whole.
        """
        if step not in self.manager.all_steps():
            with self.full_disk():
                self.manager.save(
                    step,
                    args=ocp.args.StandardSave(state),
                    custom_metadata={"config": self._config, "position": position or {}},
                )
            if jax.process_index() == 0:
                self._checksums.start(step)

    def restore(self, state: TrainState, shardings) -> TrainState:
        """The newest readable checkpoint as arrays of `state`'s shapes, on `shardings`.

        Raises:
          UserError: the checkpoints' weights do not fit the config, or cannot be read.
        """
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=s), state, shardings
        )
        failed: dict[int, str] = {}
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                restored = self.manager.restore(step, args=ocp.args.StandardRestore(target))
            except (ValueError, KeyError, TypeError, OSError) as error:
                lines = str(error).strip().splitlines()
                failed[step] = lines[0][:200] if lines else "unreadable"
                continue
            if failed and jax.process_index() == 0:
                for newer, reason in failed.items():
                    self._put_aside(newer, reason)
            if failed:
                self.manager.reload()
            return cast(TrainState, restored)
        step, reason = next(iter(failed.items()))
        raise UserError(
            f"the checkpoint of step {step} in {self.workdir} does not fit this config "
            f"({reason}); use another --workdir, or the config it was made with"
        )

    def position(self, step: int) -> dict[str, int]:
        """Where the data loader was at a checkpoint.

        Raises:
          UserError: its metadata are damaged.
        """
        try:
            metadata = self.manager.metadata(step).custom_metadata or {}
            return need(metadata, "position", dict, f"the checkpoint of step {step}", default={})
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"the checkpoint of step {step} in {self.workdir} is damaged "
                f"({shorten(error)}); delete {self._folder / str(step)}, and the one before it is "
                "used"
            ) from None

    def wait(self) -> None:
        """Returns when everything is on disk."""
        with self.full_disk():
            self.manager.wait_until_finished()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._checksums.finish()
            self.manager.close()
            if self._lock is not None:
                self._lock.release()

    def _put_aside(self, step: int, reason: str) -> None:
        damaged = make_folder(self.workdir / "damaged")
        target = damaged / str(step)
        shutil.rmtree(target, ignore_errors=True)
        (self._folder / str(step)).rename(target)
        print(
            f"warning: the checkpoint of step {step} is damaged ({reason}); it was moved to "
            f"{target}, and the one before it is used",
            file=sys.stderr,
        )

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """A full disk as one sentence that says what is safe."""
        try:
            yield
        except Exception as error:
            if isinstance(error, UserError) or not is_full_disk(error):
                raise
            steps = steps_in(self._folder)
            good = f"the last good checkpoint is of step {steps[-1]}" if steps else "none is saved"
            raise UserError(
                f"no space left on the disk of {self.workdir}; {good}; "
                "make room and start the same command again"
            ) from error

    def _check_config(self) -> None:
        """Writes config.json in a new workdir; in an old one, refuses a config that differs."""

        def refusal(found: list[Difference]) -> str:
            key, was, now = found[0]
            return (
                f"{self.workdir} was started with another config ({key} was {was}, is {now}); "
                "use another --workdir, or the config it was started with"
            )

        ensure_same_folder(
            self.workdir / "config.json", self._config, refusal, free=_FREE,
            write=jax.process_index() == 0,
        )  # fmt: skip


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that no space is left."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
