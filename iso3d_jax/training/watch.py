"""Every step's numbers: what is not finite or was skipped is said with the batch's object names."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax

from iso3d_jax.core.errors import UserError
from iso3d_jax.training.spec import OptimizerSpec

SHOWN = 8  # object names in a message


class StepWatch:
    """Keeps the steps' metrics on the device until somebody looks, and then looks at all of them.

    Args:
      cfg: `on_bad_step` ("stop", or "skip": go on with the step left out) and `max_skips`.
      names: the objects of a step's batch.
      note: prints a line.
      last_checkpoint: the clause that says what is saved.
    """

    def __init__(
        self,
        cfg: OptimizerSpec,
        names: Callable[[int], list[str]],
        note: Callable[[str], None],
        last_checkpoint: Callable[[], str],
    ):
        self._cfg, self._names, self._note = cfg, names, note
        self._last_checkpoint = last_checkpoint
        self._pending: list[tuple[int, dict]] = []

    def add(self, done: int, metrics: dict) -> None:
        """The metrics of the step that made `done` steps complete, still on the device."""
        self._pending.append((done, metrics))

    def check(self) -> dict[str, float]:
        """The newest step's finite numbers, after a check of all steps since the last look.

        Raises:
          UserError: a step went bad and `on_bad_step` is "stop", or too many did in a row.
        """
        latest: dict[str, float] = {}
        for done, metrics in [(d, jax.device_get(m)) for d, m in self._pending]:
            latest = {name: float(value) for name, value in metrics.items()}
            self._check(done, latest)
        self._pending = []
        return {name: value for name, value in latest.items() if math.isfinite(value)}

    def _check(self, done: int, values: dict[str, float]) -> None:
        infinite = [name for name, value in values.items() if not math.isfinite(value)]
        skipped = values.get("skipped", 0.0) > 0
        if not infinite and not skipped:
            return
        what = (
            f"{infinite[0]} is not finite" if infinite else f"loss {values['loss']:.4g} is a spike"
        )
        objects = self._objects(done - 1)
        if self._cfg.on_bad_step == "skip" and skipped:
            self._note(f"step {done} was skipped: {what}{objects}")
            if values["skipped_in_row"] < self._cfg.max_skips:
                return
            what = f"{self._cfg.max_skips} steps in a row were skipped; {what}"
        raise UserError(
            f"{what} at step {done}{objects}; {self._last_checkpoint()}; "
            "lower learning_rate, or look at the data"
        )

    def _objects(self, step: int) -> str:
        names = self._names(step)
        if not names:
            return ""
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f" (batch: {', '.join(names[:SHOWN])}{more})"
