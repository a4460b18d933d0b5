"""Where a run's numbers go: TensorBoard, a JSON-lines file, and a picture of the loss curve."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


class MetricsWriter:
    """Scalars to `metrics.jsonl` and TensorBoard, pictures to `samples/` and TensorBoard.

    Args:
      workdir: the run's folder.
      start_step: lines at or after this step, left by a run that was killed, are dropped.
    """

    def __init__(self, workdir: Path, start_step: int = 0):
        from tensorboardX import SummaryWriter

        self._file = workdir / "metrics.jsonl"
        if self._file.exists():
            lines = [
                line for line in self._file.read_text().splitlines() if _step_of(line) <= start_step
            ]
            self._file.write_text("".join(line + "\n" for line in lines))
        self._samples = workdir / "samples"
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        with self._file.open("a") as file:
            file.write(
                json.dumps({"step": step, **{k: float(v) for k, v in values.items()}}) + "\n"
            )
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """`image`: float [H, W, 3] in [0, 1]."""
        from PIL import Image

        self._samples.mkdir(exist_ok=True)
        pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
        Image.fromarray(pixels).save(self._samples / f"{name}_{step:06d}.png")
        self._board.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._board.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # the torn last line of a killed run
