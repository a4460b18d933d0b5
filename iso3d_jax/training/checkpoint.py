"""Checkpoints of a training run by orbax: atomic, kept by policy, resumed by the same command."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from iso3d_jax.errors import UserError
from iso3d_jax.files import atomic_path, make_folder

# What may differ between a checkpoint and the config that resumes it.
_FREE = (
    "steps", "log_every", "checkpoint_every", "sample_every", "ablate_every", "keep", "mesh",
    "profile",
)  # fmt: skip


class Checkpoints:
    """The `checkpoints/` folder of a workdir, and the config it was started with."""

    def __init__(self, workdir: str | Path, config: ConfigDict):
        self.workdir = make_folder(workdir).absolute()
        self._check_config(config)
        options = ocp.CheckpointManagerOptions(max_to_keep=config.keep, create=True)
        self.manager = ocp.CheckpointManager(self.workdir / "checkpoints", options=options)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self.manager.latest_step()

    def save(self, step: int, state) -> None:
        """Starts writing the state in the background."""
        if step not in self.manager.all_steps():
            self.manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, state, shardings):
        """The newest checkpoint as arrays of `state`'s shapes, on `shardings`.

        Raises:
          UserError: the checkpoint's weights do not fit the config, or cannot be read.
        """
        step = self.latest_step()
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=s), state, shardings
        )
        try:
            return self.manager.restore(step, args=ocp.args.StandardRestore(target))
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = (
                str(error).strip().splitlines()[0][:200] if str(error).strip() else "unreadable"
            )
            raise UserError(
                f"the checkpoint of step {step} in {self.workdir} does not fit this config "
                f"({reason}); use another --workdir, or the config it was made with"
            ) from error

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()

    def _check_config(self, config: ConfigDict) -> None:
        """Writes config.json in a new workdir; in an old one, refuses a config that differs."""
        file = self.workdir / "config.json"
        new = json.loads(json.dumps(config.to_dict()))
        if not file.exists():
            if jax.process_index() == 0:
                with atomic_path(file) as temporary:
                    temporary.write_text(json.dumps(new, indent=2) + "\n")
            return
        try:
            old = json.loads(file.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{file} is damaged: {error}") from None
        differing = sorted(
            key
            for key in old.keys() | new.keys()
            if key not in _FREE and old.get(key) != new.get(key)
        )
        if differing:
            key = _first_difference(differing[0], old.get(differing[0]), new.get(differing[0]))
            raise UserError(
                f"{self.workdir} was started with another config ({key}); "
                "use another --workdir, or the config it was started with"
            )


def _first_difference(name, old, new) -> str:
    """'model.unet.model_channels was 64, is 96'."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return _first_difference(f"{name}.{key}", old.get(key), new.get(key))
    return f"{name} was {old}, is {new}"
