"""Where a run's numbers go: TensorBoard, a JSON-lines file, and a picture of the loss curve."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path
from iso3d_jax.core.images import to_uint8

FLUSH_SECONDS = 10.0  # how old what TensorBoard shows may be


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
        self._file = workdir / "metrics.jsonl"
        if self._file.exists():
            noted = self._file.read_text().splitlines()
            lines = [line for line in noted if _read_step(line) <= start_step]
            with atomic_path(self._file) as temporary:
                temporary.write_text("".join(line + "\n" for line in lines))
        self._samples = workdir / "samples"
        self._wandb = _wandb_run(workdir, wandb_project) if wandb_project else None
        self._board = _Board(workdir / "tensorboard", start_step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        with self._file.open("a") as file:
            file.write(
                json.dumps({"step": step, **{k: float(v) for k, v in values.items()}}) + "\n"
            )
        self._board.scalars(step, values)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """`image`: float [H, W, 3] in [0, 1]."""
        from PIL import Image

        self._samples.mkdir(exist_ok=True)
        pixels = to_uint8(image)
        Image.fromarray(pixels).save(self._samples / f"{name}_{step:06d}.png")
        self._board.image(step, name, pixels)
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


class _Board:
    """An event file for TensorBoard, written by the thread that logs.

    tensorboardX's own SummaryWriter hands events to a thread that ends silently when the disk is
    full; its queue then fills up, and the training waits for ever. Here a write that fails raises.

    Args:
      folder: where the file goes; made if it is missing.
      purge_step: events of earlier files from this step on are not shown.
    """

    def __init__(self, folder: Path, purge_step: int):
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2

        folder.mkdir(exist_ok=True)
        self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._flushed = time.monotonic()
        # protobuf makes its classes at run time
        log = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        start = log(status=log.START)
        self._write(purge_step, session_log=start)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX import summary

        for name, value in values.items():
            self._write(step, summary=summary.scalar(name, float(value)))

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        from tensorboardX import summary

        self._write(step, summary=summary.image(name, pixels, dataformats="HWC"))

    def close(self) -> None:
        self._file.close()

    def _write(self, step: int, **what) -> None:
        from tensorboardX.proto import event_pb2

        event = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
        self._file.write_event(event(wall_time=time.time(), step=step, **what))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()


def _wandb_run(workdir: Path, project: str):
    """A run that a resumed training goes on with: its id is the workdir's path."""
    try:
        import wandb
    except ImportError:
        raise UserError(f"{extras.missing('wandb')}, or leave --wandb out") from None
    identity = hashlib.sha256(str(workdir).encode()).hexdigest()[:16]
    config = json.loads((workdir / "config.json").read_text())
    return wandb.init(
        project=project, name=workdir.name, id=identity, resume="allow", config=config
    )


def _read_step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # the torn last line of a killed run
