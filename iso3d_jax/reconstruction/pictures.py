"""Pictures of a scene: previews, turntables, and the sampled views that a draft is fitted to."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from iso3d_jax.core.files import atomic_path
from iso3d_jax.core.images import to_uint8
from iso3d_jax.core.progress import Progress
from iso3d_jax.data import grids
from iso3d_jax.data.picture_files import read_image
from iso3d_jax.geometry import camera_sets
from iso3d_jax.geometry.camera_sets import Cameras, Poses, as_poses
from iso3d_jax.metrics.pixels import psnr
from iso3d_jax.nerf import render
from iso3d_jax.reconstruction.losses import Pictures, white_mask
from iso3d_jax.reconstruction.spec import ReconstructionSpec
from iso3d_jax.reconstruction.state import State, make_grid

_AS_IT_IS = 1 << 30  # no picture has so long a side
TILE = 192  # side of a picture in a contact sheet
SHOW = dict(elevation_deg=15.0, fov_deg=40.0, scale=1.1)


@functools.partial(jax.jit, static_argnames=("resolution", "render_spec", "field_spec"))
def _render_views(params, grid, views, *, resolution, render_spec, field_spec):
    """rgb, opacity, depth and world normals of V views, [V, H, W, ...]."""
    rays_o, rays_d, _ = views.rays(resolution)
    rendering = render.render_shown(params, rays_o, rays_d, grid, render_spec, field_spec)
    return tuple(x.reshape(-1, resolution, resolution, *x.shape[1:]) for x in rendering)


def render_views(
    state: State,
    views: Cameras | Poses,
    resolution: int,
    spec: ReconstructionSpec,
    label: str = "",
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Renders views for looking at, four at a time, groups after one another.

    Args:
      label: what they are, on a line of progress; '' shows none.

    Returns:
      rgb [V, H, W, 3] on white, opacity [V, H, W], depth [V, H, W], normals [V, H, W, 3] in world
      coordinates, weighted by opacity.
    """
    poses, grid = as_poses(views), make_grid(state, spec)
    count = len(poses.fov_deg)

    def draw(first):
        index = jnp.minimum(jnp.arange(first, first + 4), count - 1)
        return jax.device_get(
            _render_views(
                state.params, grid, Poses(*(x[index] for x in poses)),
                resolution=resolution, render_spec=spec.rays_shown, field_spec=spec.field,
            )
        )  # fmt: skip

    progress = Progress(count, label, unit="frame") if label else None
    parts = []
    for first in range(0, count, 4):
        begins = progress if not parts else None
        with contextlib.nullcontext() if begins is None else begins.compiling():
            parts.append(draw(first))
        if progress is not None:
            progress.update(min(first + 4, count))
    if progress is not None:
        progress.close()
    rgb, opacity, depth, normal = (np.concatenate([p[i] for p in parts])[:count] for i in range(4))
    return rgb, opacity, depth, normal


def strip(state: State, spec: ReconstructionSpec, resolution: int, views: int = 4) -> np.ndarray:
    """Colour above normals, `views` wide, uint8; the first column is the picture's side."""
    rgb, opacity, _, normal = render_views(state, camera_sets.ring(views, **SHOW), resolution, spec)
    shaded = normal_colours(normal, opacity)
    return to_uint8(np.concatenate([np.concatenate(list(rgb), 1), np.concatenate(list(shaded), 1)]))


def normal_colours(normal: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Normals as colours, (n + 1) / 2, on white."""
    return normal * 0.5 + 0.5 * opacity[..., None] + (1.0 - opacity[..., None])


class Turntable(NamedTuple):
    """Frames all round, uint8: colour and normals [F, H, W, 3], opacity [F, H, W]."""

    rgb: np.ndarray
    normal: np.ndarray
    opacity: np.ndarray

    def some(self, count: int) -> tuple[Turntable, np.ndarray]:
        """`count` frames evenly spread, and their azimuths in degrees."""
        frames = len(self.rgb)
        index = np.round(np.arange(min(count, frames)) * frames / min(count, frames)).astype(int)
        return Turntable(*(x[index] for x in self)), index * (360.0 / frames)


def all_round(state: State, spec: ReconstructionSpec, count: int, label: str = "") -> Turntable:
    """Renders `count` frames evenly round the object, as large as the video's.

    Args:
      label: what they are, on a line of progress; '' shows none.
    """
    views = camera_sets.ring(count, **SHOW)
    rgb, opacity, _, normal = render_views(state, views, spec.video.resolution, spec, label)
    return Turntable(to_uint8(rgb), to_uint8(normal_colours(normal, opacity)), to_uint8(opacity))


def turntable(path: Path, state: State, spec: ReconstructionSpec) -> Turntable:
    """Writes an MP4 of the object turning: colour, normals and opacity side by side."""
    import imageio.v2 as imageio

    video = spec.video
    turn = all_round(state, spec, video.frames, "turntable")
    grey = np.repeat(255 - turn.opacity[..., None], 3, -1)
    frames = np.concatenate([turn.rgb, turn.normal, grey], 2)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # ffmpeg is started at once
        rate = max(1, round(video.frames / video.seconds))
        with imageio.get_writer(
            temporary, fps=rate, codec="libx264", quality=8, macro_block_size=2,
            pixelformat="yuv420p", ffmpeg_log_level="error",
        ) as writer:  # fmt: skip
            for frame in frames:
                writer.append_data(frame)  # pyright: ignore[reportAttributeAccessIssue]
    return turn


def contact_sheet(
    path: Path, picture: np.ndarray | None, views: np.ndarray, turn: Turntable
) -> None:
    """Writes one picture of a run: the input and the views, then colours and normals all round.

    Args:
      picture: the prepared input [H, W, 3] in [0, 1]; None where pictures were given.
      views: the sampled views, or given pictures, [V, H, W, 3] in [0, 1].
    """
    eight, _ = turn.some(8)
    first = list(views) if picture is None else [picture, *views]
    rows = [first, list(eight.rgb / 255.0), list(eight.normal / 255.0)]
    with atomic_path(path) as temporary:
        grids.tile(rows, TILE).save(temporary)


def load_input(folder: Path) -> UInt8[np.ndarray, "H W 4"]:
    """The picture of a run, RGBA, from its folder.

    Raises:
      UserError: it is not there, or damaged.
    """
    return np.asarray(read_image(folder / "input.png", _AS_IT_IS).convert("RGBA"))


def sheet_of_sheets(path: Path, sheets: Sequence[Path], views: int) -> None:
    """Writes one picture of many runs, a row each: the input, the views, four sides of the object.

    Args:
      sheets: the runs' contact sheets, from `contact_sheet`.
      views: how many each has.
    """
    rows = []
    for sheet in sheets:
        first, colours, *_ = grids.untile(read_image(sheet, _AS_IT_IS), TILE)
        rows.append([*first[: 1 + views], *colours[:8:2]])
    with atomic_path(path) as temporary:
        grids.tile(rows, TILE // 2).save(temporary)


def from_views(
    images: Float[Array | np.ndarray, "V H W 3"],
    views: Cameras | Poses,
    mask: Float[Array, "V H W"] | None = None,
    hull: Float[Array, "G G G"] | None = None,
    seen: Bool[np.ndarray, "V H W"] | None = None,
) -> Pictures:
    """The pixels of given pictures as rays with colours and masks.

    Args:
      images: in [0, 1], on white; one a view of `views`.
      mask: opacities [V, H, W], or None to take what is not white.
      hull: of the views, from `visual_hull`; None leaves it out.
      seen: the pixels that the pictures have; the others are no rays. None: all of them.
    """
    rays_o, rays_d, _ = views.rays(images.shape[1])
    images = jnp.asarray(images, jnp.float32)
    mask = white_mask(images) if mask is None else mask
    given = Pictures(rays_o, rays_d, images.reshape(-1, 3), mask.reshape(-1), hull)
    if seen is None:
        return given
    kept = {name: getattr(given, name)[seen.reshape(-1)] for name in Pictures._fields[:4]}
    return given._replace(**kept)


def seen_again(
    state: State,
    images: Float[np.ndarray, "V H W 3"],
    views: Cameras | Poses,
    spec: ReconstructionSpec,
    seen: Bool[np.ndarray, "V H W"] | None = None,
) -> tuple[float, Float[np.ndarray, "V H W 3"]]:
    """How well a scene that was fitted to pictures shows them again.

    Args:
      images: in [0, 1], on white; one a view of `views`.
      seen: the pixels that count; all if None.

    Returns:
      The PSNR in dB over all pictures together, and the pictures as the scene shows them.
    """
    shown = np.clip(render_views(state, views, images.shape[1], spec)[0], 0.0, 1.0)
    pair = np.asarray(images), shown
    kept = [x.reshape(1, -1, 3) if seen is None else x[seen][None] for x in pair]
    return float(psnr(*(x[None] for x in kept))[0]), shown
