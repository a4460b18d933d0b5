"""How the seconds of a run are shared out, and the file in which it stands.

The parts whose first steps are timed (autoencoder, image tower, stage 1) go on until a share of
all seconds is over. What stage 1 leaves is known from its own compiling and steps: stage 2 has two
programs of the same size. What was chosen is written down, and a run that goes on after it was
killed has the same number of steps.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from iso3d_jax.core.files import atomic_path
from iso3d_jax.core.json_files import need, read_object

PARTS = ("autoencoder", "image_tower", "stage1", "stage2", "decoder", "evaluation")
# Shares of all seconds: until when the first two train, what is kept for sampling and tuning the
# decoder, and for the evaluation.
UNTIL = {"autoencoder": 0.11, "image_tower": 0.27}
DECODER, EVALUATION = 0.08, 0.09
STAGE1 = 0.7  # of the seconds of both stages
DECODER_STEPS = 0.03  # of all seconds, for the steps themselves
WITH_REFERENCE = 1.2  # a step of stage 2 in those of stage 1: three in four see a fifth view


class Schedule:
    """What was chosen and what is done; the file is whole after every change."""

    def __init__(self, file: Path, copy: Path, seconds: float):
        """
        Args:
          file: in the run's working folder; read where it is there.
          copy: a second place where it is written.
          seconds: that all parts have together.

        Raises:
          UserError: a damaged file.
        """
        self._files, self.seconds = (file, copy), seconds
        noted = read_object(file) if file.is_file() else {}
        self.parts: dict[str, dict[str, Any]] = need(noted, "parts", dict, file, default={})
        self._began = time.monotonic() - need(noted, "spent_seconds", float, file, default=0.0)

    def spent(self) -> float:
        """Seconds of all processes of this run, without what a killed one had not noted."""
        return time.monotonic() - self._began

    def left(self) -> float:
        return self.seconds - self.spent()

    def is_done(self, part: str) -> bool:
        return bool(self.parts.get(part, {}).get("done"))

    def note(self, part: str, **facts: Any) -> None:
        """Writes down something about a part."""
        self.parts.setdefault(part, {}).update(facts)
        self.save()

    def save(self) -> None:
        """Writes the file, with the seconds that are spent."""
        content = {
            "seconds": self.seconds, "spent_seconds": round(self.spent(), 1), "parts": self.parts
        }  # fmt: skip
        for file in self._files:
            with atomic_path(file) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n")

    def seconds_for(self, part: str) -> float:
        """How long the steps of a part may take from now on, once its compiling is known."""
        if part in UNTIL:
            return UNTIL[part] * self.seconds - self.spent()
        if part == "decoder":
            return min(DECODER_STEPS * self.seconds, self.left() - EVALUATION * self.seconds)
        both = self.left() - (DECODER + EVALUATION) * self.seconds
        if part == "stage1":
            return STAGE1 * (both - 2 * self.parts["stage1"]["compile_seconds"])
        return both - 2 * self.parts["stage1"]["compile_seconds"]

    def steps_for(self, part: str) -> int:
        """How many steps that makes, at the speed that was measured of it or of its like; maybe
        none."""
        rate = {
            "stage2": lambda: self.parts["stage1"]["steps_per_second"] / WITH_REFERENCE,
            # The same network and batch; encoding is left out.
            "decoder": lambda: self.parts["autoencoder"]["steps_per_second"],
        }.get(part, lambda: self.parts[part]["steps_per_second"])()
        return max(0, int(rate * self.seconds_for(part)))
