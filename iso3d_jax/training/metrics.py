"""Where a run's numbers go: TensorBoard, a JSON-lines file, and a picture of the loss curve."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from iso3d_jax.errors import UserError


class MetricsWriter:
    """Scalars to `metrics.jsonl` and TensorBoard, pictures to `samples/` and TensorBoard.

    Args:
      workdir: the run's folder.
      start_step: lines after this step, left by a run that was killed, are dropped.
      wandb_project: where Weights & Biases gets scalars and pictures too; None leaves it out.

    Raises:
      UserError: a project is named, but wandb is not installed.
    """

    def __init__(self, workdir: Path, start_step: int = 0, wandb_project: str | None = None):
        from tensorboardX import SummaryWriter

        self._file = workdir / "metrics.jsonl"
        if self._file.exists():
            lines = [
                line for line in self._file.read_text().splitlines() if _step_of(line) <= start_step
            ]
            self._file.write_text("".join(line + "\n" for line in lines))
        self._samples = workdir / "samples"
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)
        self._wandb = _wandb_run(workdir, wandb_project) if wandb_project else None

    def scalars(self, step: int, values: dict[str, float]) -> None:
        with self._file.open("a") as file:
            file.write(
                json.dumps({"step": step, **{k: float(v) for k, v in values.items()}}) + "\n"
            )
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """`image`: float [H, W, 3] in [0, 1]."""
        from PIL import Image

        self._samples.mkdir(exist_ok=True)
        pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
        Image.fromarray(pixels).save(self._samples / f"{name}_{step:06d}.png")
        self._board.add_image(name, pixels, step, dataformats="HWC")
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb_run(workdir: Path, project: str):
    """A run that a resumed training goes on with: its id is the workdir's path."""
    try:
        import wandb
    except ImportError:
        raise UserError(
            'wandb is not installed: pip install -e ".[wandb]", or leave --wandb out'
        ) from None
    identity = hashlib.sha256(str(workdir).encode()).hexdigest()[:16]
    config = json.loads((workdir / "config.json").read_text())
    return wandb.init(
        project=project, name=workdir.name, id=identity, resume="allow", config=config
    )


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # the torn last line of a killed run
