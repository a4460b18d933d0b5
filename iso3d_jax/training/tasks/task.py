"""What kinds of training have in common, and what most of them answer the loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from iso3d_jax.core.errors import UserError
from iso3d_jax.models.params import FlatParams
from iso3d_jax.training import sharding

PREVIEW_OBJECTS = 8


class BaseTask:
    """Batches and steps come from the subclass's module."""

    label: str
    summary = ""
    batches: Any  # `branch(step)`, and called with a step its batch
    init_params: FlatParams | Callable[[], FlatParams]
    sharding_rules = sharding.REPLICATED

    @functools.cached_property
    def abstract_params(self) -> dict[str, jax.ShapeDtypeStruct]:
        return jax.eval_shape(lambda: self.init_params)

    def trained(self, params: Iterable[str]) -> list[str] | None:
        return None

    def branch(self, step: int) -> str:
        return self.batches.branch(step)

    def batch(self, step: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value[rows] for name, value in self.batches(step).items()}

    def on_devices(self, batch: dict, mesh) -> dict:
        return batch

    def position(self) -> dict[str, int]:
        return {}

    def go_to(self, position: dict[str, int]) -> None:
        pass

    def names(self, step: int) -> list[str]:
        return []

    def diagnose(self, params: FlatParams) -> dict[str, float]:
        raise UserError(f"ablate_every is for stages 1 and 2, not for the {self.label}")
