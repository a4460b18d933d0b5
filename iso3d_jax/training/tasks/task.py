"""What kinds of training have in common, and what most of them answer the loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from iso3d_jax.core.errors import UserError
from iso3d_jax.models.params import FlatParams
from iso3d_jax.training import sharding
from iso3d_jax.training.spec import TrainingSpec
from iso3d_jax.training.state import TrainState

PREVIEW_OBJECTS = 8


class BaseTask:
    """Batches and steps come from the subclass's module."""

    label: str
    summary = ""
    cfg: TrainingSpec
    graphdef: nnx.GraphDef
    train_step: Callable[..., tuple[TrainState, dict]]
    batches: Any  # `branch(step)`, and called with a step its batch
    init_params: FlatParams | Callable[[], FlatParams]
    sharding_rules = sharding.REPLICATED

    @classmethod
    def from_config(cls, config: ConfigDict) -> Self:
        """The task of a config, which stays as it is.

        Raises:
          UserError: a value of the config that may not be, or what a task needs is missing.
        """
        raise NotImplementedError

    @functools.cached_property
    def abstract_params(self) -> dict[str, jax.ShapeDtypeStruct]:
        return jax.eval_shape(lambda: self.init_params)

    def trained(self, params: Iterable[str]) -> list[str] | None:
        return None

    def branch(self, step: int) -> str:
        return self.batches.branch(step)

    def batch(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value[rows] for name, value in self.batches(step).items()}

    def on_devices(self, batch: dict, device_mesh) -> dict:
        return batch

    def position(self) -> dict[str, int]:
        return {}

    def restore_position(self, position: dict[str, int]) -> None:
        pass

    def names(self, step: int) -> list[str]:
        return []

    def preview(self, params: FlatParams) -> np.ndarray | None:
        raise NotImplementedError

    def export(self, params: FlatParams, folder: Path) -> None:
        raise NotImplementedError

    def diagnose(self, params: FlatParams) -> dict[str, float]:
        raise UserError(f"ablate_every is for stages 1 and 2, not for the {self.label}")
