"""Draws meshes with Blender's Cycles, a path tracer, in a process of its own.

The cameras and the frame are the rasterizer's, and so is what is transparent; light comes from all
around and casts shadows: from what `lights.paint_sky` paints, or a picture such as an HDRI. What
has no light in it, depth, normals and albedo, is the rasterizer's own.

Surfaces are matt. The factors of a colour are multiplied as linear light, also of parts that
multiply them as sRGB values, which makes little difference.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from iso3d_jax.core import child_processes
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.data import blender_process
from iso3d_jax.data.lights import EVEN, Light, paint_sky
from iso3d_jax.data.meshes import BadMesh, Part
from iso3d_jax.data.rasterizer import Rasterizer, find_passes
from iso3d_jax.data.textures import srgb_to_linear

SAMPLES = 64  # rays a pixel
PICTURES = (".hdr", ".exr", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


def seconds_for_view(resolution: int, samples: int) -> float:
    """More than a view should ever take."""
    return 10.0 + 1e-4 * samples * resolution**2


def memory_for(resolution: int) -> int:
    """Bytes that an object may take; one of two million triangles took 2.2 GB, measured."""
    return (8 << 30) + 400 * resolution**2


class Blender:
    """A Blender process with one square frame. Use as a context manager or call `close`."""

    def __init__(
        self,
        resolution: int,
        samples: int = SAMPLES,
        python: str = "",
        *,
        seconds: float | None = None,
        memory: int | None = None,
    ):
        """
        Args:
          samples: rays a pixel.
          python: the interpreter that has bpy; this one if empty.
          seconds: to load an object, and for a view; None for any. Who takes longer is ended.
          memory: bytes that the process may take beyond what it has at its start; None for any. A
            bound on Linux alone.

        Raises:
          UserError: bpy is not there.
        """
        self.resolution, self._samples = resolution, samples
        self._seconds, self._memory = seconds, memory
        self._python = python or sys.executable
        self._parts: list[Part] = []
        self._rasterizer: Rasterizer | None = None  # of layers
        self._process: subprocess.Popen | None = None
        self._start()

    def __enter__(self) -> Blender:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process and frees the rasterizer."""
        self._end()
        if self._rasterizer is not None:
            self._rasterizer.close()
            self._rasterizer = None

    def _end(self) -> None:
        if self._process is not None:
            for pipe in (self._asks, self._answers):
                with contextlib.suppress(OSError):
                    pipe.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        read, asks = os.pipe()
        answers, write = os.pipe()
        command = [self._python, "-I", blender_process.__file__, str(read), str(write)]
        try:
            self._process = subprocess.Popen(
                command, pass_fds=(read, write), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as e:
            for end in (asks, answers):
                os.close(end)
            raise UserError(f"--blender_python {self._python} cannot be started: {e}") from None
        finally:
            os.close(read)
            os.close(write)
        self._asks, self._answers = os.fdopen(asks, "wb"), os.fdopen(answers, "rb")
        message: dict[str, Any] = {"fault": "it ended at once"}
        with contextlib.suppress(OSError, EOFError):
            blender_process.send(
                self._asks, {"resolution": self.resolution, "samples": self._samples}
            )
        with contextlib.suppress(OSError, EOFError):
            message, _ = blender_process.receive(self._answers)
        if "fault" in message:
            self._end()
            raise UserError(
                f"Blender does not run ({shorten(message['fault'], 200)}): give an environment of "
                "its own the package bpy (pip install bpy) and name its Python with "
                "--blender_python"
            )
        self.version = message["blender"]
        child_processes.bound_memory(self._memory, self._process.pid)

    def _ask(self, message: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        if self._process is None:
            self._start()
        try:
            with self._in_time() as late:
                blender_process.send(self._asks, message, arrays)
                answer, found = blender_process.receive(self._answers)
        except (OSError, EOFError):
            raise BadMesh(self._say_end(late)) from None
        if "MemoryError" in answer.get("fault", ""):
            self._end()  # libraries seldom recover from it
            raise BadMesh(f"Blender needs more than {self._memory_in_words()} for it")
        if "fault" in answer:
            raise BadMesh(f"Blender: {answer['fault']}")
        return found

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[threading.Event]:
        """Ends the process, and with it whoever waits at its pipes, if the block takes too long;
        the event says so."""
        late, process = threading.Event(), self._process

        def stop() -> None:
            late.set()
            if process is not None:
                process.kill()

        timer = None if self._seconds is None else threading.Timer(self._seconds, stop)
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            yield late
        finally:
            if timer is not None:
                timer.cancel()

    def _say_end(self, late: threading.Event) -> str:
        """Why the process is no more, which closes its pipes."""
        process = self._process
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2.0)
        self._end()
        if late.is_set():
            return f"Blender took more than {self._seconds:.0f} s for it"
        code = None if process is None else process.returncode
        bound = "" if self._memory is None else f"; it may take {self._memory_in_words()}"
        return f"Blender ended at it with {child_processes.describe_status(code)}{bound}"

    def _memory_in_words(self) -> str:
        given = "the machine's" if self._memory is None else f"{self._memory / 2**30:.1f} GiB of"
        return f"{given} memory"

    def load(self, parts: list[Part], light: Light = EVEN) -> None:
        """Takes the parts of one object and the light on them, in place of the last ones.

        Raises:
          BadMesh: Blender cannot.
        """
        self._parts = list(parts)
        if self._rasterizer is not None:
            self._rasterizer.load(self._parts)
        message, arrays = describe(parts)
        x, y, _ = light.direction
        message |= {"do": "load", "picture": light.picture, "sky": len(arrays)}
        message["turn"] = float(np.arctan2(y, x)) if light.picture else 0.0
        self._ask(message, [*arrays, paint_sky(light)])

    def render(
        self, c2w: Float[np.ndarray, "4 4"], fov_deg: float
    ) -> UInt8[np.ndarray, "res res 4"]:
        """One view of the loaded object; see `Rasterizer.render`."""
        message = {"do": "render", "fov_deg": float(fov_deg)}
        (png,) = self._ask(message, [np.asarray(c2w, np.float64)])
        picture = np.array(Image.open(io.BytesIO(png.tobytes())).convert("RGBA"))
        picture[picture[..., 3] == 0] = 0
        return picture

    def render_layer(self, layer: str, c2w: Float[np.ndarray, "4 4"], fov_deg: float) -> np.ndarray:
        """See `Rasterizer.render_layer`, whose it is."""
        if self._rasterizer is None:
            self._rasterizer = Rasterizer(self.resolution)
            self._rasterizer.load(self._parts)
        return self._rasterizer.render_layer(layer, c2w, fov_deg)


def describe(parts: list[Part]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Parts as Blender's process takes them: what JSON can hold, and arrays by their numbers."""
    arrays: list[np.ndarray] = []
    described: list[dict[str, Any]] = []

    def put(value: np.ndarray | None, dtype: Any) -> int | None:
        if value is None:
            return None
        arrays.append(np.asarray(value, dtype))
        return len(arrays) - 1

    for part in parts:
        how = find_passes(part)
        if not how:
            continue
        glow = part.glow
        tint = part.tint
        if tint is not None and not part.linear:
            tint = np.concatenate([srgb_to_linear(tint[..., :3]), tint[..., 3:]], -1)
        numbers = {
            "positions": put(part.positions, np.float32),
            "normals": put(part.normals, np.float32),
            "uv": put(part.uv if part.texture is not None else None, np.float32),
            "texture": put(part.texture, np.uint8),
            "tint": put(tint, np.float32),
        }
        if glow is not None and glow.texture is not None:
            numbers["glow_texture"] = put(glow.texture, np.uint8)
            numbers["glow_uv"] = put(part.uv if glow.uv is None else glow.uv, np.float32)
        cut = how[0].low if how[0].whole and len(how) == 1 and how[0].low > 0 else None
        described.append({
            "arrays": {name: number for name, number in numbers.items() if number is not None},
            "colour": srgb_to_linear(part.colour).tolist(),
            "opacity": float(part.opacity),
            "cut": cut,
            "mixed": not how[0].whole or len(how) > 1,
            "wrap": list(part.wrap),
            "nearest": part.nearest,
            "two_sided": part.two_sided,
            "unlit": part.unlit,
            "glow": None if glow is None else list(map(float, glow.colour)),
            "glow_wrap": ["repeat", "repeat"] if glow is None else list(glow.wrap),
            "glow_nearest": glow is not None and glow.nearest,
        })  # fmt: skip
    return {"parts": described}, arrays


def check_pictures(files: Sequence[str]) -> tuple[str, ...]:
    """Pictures of the user's that give light, by their full paths.

    Raises:
      UserError: no such file, or of no such format.
    """
    for file in files:
        path = Path(file).expanduser()
        if not path.is_file():
            raise UserError(f"--hdri {file}: there is no such file")
        if path.suffix.lower() not in PICTURES:
            raise UserError(f"--hdri {file}: not a picture of one of {', '.join(PICTURES)}")
    return tuple(str(Path(file).expanduser().resolve()) for file in files)
