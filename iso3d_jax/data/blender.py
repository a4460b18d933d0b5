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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.data import blender_process
from iso3d_jax.data.lights import EVEN, Light, paint_sky
from iso3d_jax.data.meshes import BadMesh, Part
from iso3d_jax.data.rasterizer import Rasterizer, find_passes
from iso3d_jax.data.textures import srgb_to_linear

SAMPLES = 64  # rays a pixel
PICTURES = (".hdr", ".exr", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


class Blender:
    """A Blender process with one square frame. Use as a context manager or call `close`."""

    def __init__(self, resolution: int, samples: int = SAMPLES, python: str = ""):
        """
        Args:
          samples: rays a pixel.
          python: the interpreter that has bpy; this one if empty.

        Raises:
          UserError: bpy is not there.
        """
        self.resolution, self._samples = resolution, samples
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

    def _ask(self, message: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        if self._process is None:
            self._start()
        try:
            blender_process.send(self._asks, message, arrays)
            answer, found = blender_process.receive(self._answers)
        except (OSError, EOFError):
            self._end()
            raise BadMesh("Blender ended at it") from None
        if "fault" in answer:
            raise BadMesh(f"Blender: {answer['fault']}")
        return found

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
