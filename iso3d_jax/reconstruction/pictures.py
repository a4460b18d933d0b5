"""Pictures of a scene: previews, turntables, and the sampled views that a draft is fitted to."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
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
from iso3d_jax.nerf import field, showing
from iso3d_jax.nerf.showing import Shown
from iso3d_jax.reconstruction.losses import Pictures, white_mask
from iso3d_jax.reconstruction.spec import ReconstructionSpec
from iso3d_jax.reconstruction.state import State, make_grid

_AS_IT_IS = 1 << 30  # no picture has so long a side
TILE = 192  # side of a picture in a contact sheet
SHOW = dict(elevation_deg=15.0, fov_deg=40.0, scale=1.1)


_render_rays = functools.partial(jax.jit, static_argnames=("spec", "field_spec"))(
    showing.render_shown
)


@functools.partial(jax.jit, static_argnames="resolution")
def _make_rays(views: Poses, resolution: int) -> tuple[Array, Array]:
    return views.rays(resolution)[:2]


def shown_views(
    state: State,
    views: Cameras | Poses,
    resolution: int,
    spec: ReconstructionSpec,
    label: str = "",
) -> Iterator[Shown]:
    """Renders views for looking at, one after another, in equal chunks of rays.

    One program does for all views of a scene, of whatever size they are.

    Args:
      label: what they are, on a line of progress; '' shows none.

    Yields:
      Of each view what its pixels show, arrays [H, W, ...].
    """
    poses, grid = as_poses(views), make_grid(state, spec)
    params, rays = field.with_edge(state.params), spec.rays_shown
    count, pixels = len(poses.fov_deg), resolution**2
    chunk = showing.rays_at_once(rays, spec.field)

    def draw(rays_o: np.ndarray, rays_d: np.ndarray) -> list[np.ndarray]:
        size = len(rays_o)
        padded = [np.pad(x, [(0, chunk - size), (0, 0)], mode="edge") for x in (rays_o, rays_d)]
        shown = _render_rays(params, *padded, grid, spec=rays, field_spec=spec.field)
        return [x[:size] for x in jax.device_get(shown)]

    def chunks() -> Iterator[list[np.ndarray]]:
        waiting = np.zeros((0, 6), np.float32)
        for k in range(count):
            made = _make_rays(Poses(*(x[k : k + 1] for x in poses)), resolution)
            waiting = np.concatenate([waiting, np.concatenate(jax.device_get(made), 1)])
            while len(waiting) >= chunk or (len(waiting) and k == count - 1):
                yield draw(waiting[:chunk, :3], waiting[:chunk, 3:])
                waiting = waiting[chunk:]

    progress = Progress(count, label, unit="frame") if label else None
    source, done, left = chunks(), 0, None
    while done < count:
        begins = progress if left is None else None
        with contextlib.nullcontext() if begins is None else begins.compiling():
            more = next(source)
        left = more if left is None else [np.concatenate(x) for x in zip(left, more, strict=True)]
        while len(left[0]) >= pixels:
            done += 1
            if progress is not None:
                progress.update(done)
            yield Shown(*(x[:pixels].reshape(resolution, resolution, *x.shape[1:]) for x in left))
            left = [x[pixels:] for x in left]
    if progress is not None:
        progress.close()


def render_views(
    state: State,
    views: Cameras | Poses,
    resolution: int,
    spec: ReconstructionSpec,
    label: str = "",
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Renders views for looking at; see `shown_views`.

    Returns:
      rgb [V, H, W, 3] on white, opacity [V, H, W], depth [V, H, W], normals [V, H, W, 3] in world
      coordinates, weighted by opacity.
    """
    parts = [shown[:4] for shown in shown_views(state, views, resolution, spec, label)]
    rgb, opacity, depth, normal = (np.stack(x) for x in zip(*parts, strict=True))
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
    """Frames all round, uint8: colour and normals [F, H, W, 3], opacity [F, H, W].

    `optimised_rgb` and `optimised_opacity` are those before the scene's edge was sharpened.
    """

    rgb: np.ndarray
    normal: np.ndarray
    opacity: np.ndarray
    optimised_rgb: np.ndarray
    optimised_opacity: np.ndarray

    def some(self, count: int) -> tuple[Turntable, np.ndarray]:
        """`count` frames evenly spread, and their azimuths in degrees."""
        frames = len(self.rgb)
        index = np.round(np.arange(min(count, frames)) * frames / min(count, frames)).astype(int)
        return Turntable(*(x[index] for x in self)), index * (360.0 / frames)

    def as_optimised(self) -> Turntable:
        """The frames before the scene's edge was sharpened."""
        return self._replace(rgb=self.optimised_rgb, opacity=self.optimised_opacity)


def all_round(state: State, spec: ReconstructionSpec, count: int, label: str = "") -> Turntable:
    """Renders `count` frames evenly round the object, as large as the video's.

    Args:
      label: what they are, on a line of progress; '' shows none.
    """
    views = camera_sets.ring(count, **SHOW)
    frames = [
        Turntable(
            to_uint8(x.rgb), to_uint8(normal_colours(*map(np.asarray, (x.normal, x.opacity)))),
            to_uint8(x.opacity),
            to_uint8(x.optimised_rgb), to_uint8(x.optimised_opacity),
        )
        for x in shown_views(state, views, spec.video.resolution, spec, label)
    ]  # fmt: skip
    return Turntable(*(np.stack(x) for x in zip(*frames, strict=True)))


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
