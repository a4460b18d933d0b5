"""A draft: a scene fitted to the sampled views, for distillation to begin from; and their hull."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from scipy import ndimage

from iso3d_jax.core.arrays_file import read_arrays
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import make_folder
from iso3d_jax.core.images import to_uint8
from iso3d_jax.data.posed_pictures import PosedPictures
from iso3d_jax.geometry import camera_sets
from iso3d_jax.reconstruction import loop, pictures, state
from iso3d_jax.reconstruction.init.hull import visual_hull
from iso3d_jax.reconstruction.losses import DenoiserSpec, Pictures, white_mask
from iso3d_jax.reconstruction.spec import ReconstructionSpec
from iso3d_jax.reconstruction.state import State
from iso3d_jax.views import Views

FOLDER = "draft"  # of a run's folder
VIEWS, GIVEN = "views.npz", "pictures.npz"  # of a run's folder: what was drawn, or given
_REMEDY = "delete it and state.npz beside it, and the same command starts again"


def draft_spec(spec: ReconstructionSpec, resolution: int) -> ReconstructionSpec:
    """The spec of the draft that belongs to a reconstruction, which is one of mode 'views'."""
    steps = spec.draft.steps
    return dataclasses.replace(
        spec, mode="views", steps=steps, phases=((steps, resolution, 1),),
        occupancy=dataclasses.replace(spec.occupancy, warmup=steps),
        optimizer=dataclasses.replace(spec.optimizer, networks=spec.draft.networks),
    )  # fmt: skip


def fit_alone(resolution: int, device_mesh: Mesh | None = None) -> DenoiserSpec:
    """What stands for a denoiser's facts where pictures are fitted and no model is asked."""
    return DenoiserSpec(resolution, 1.0, "v", "mvdream", device_mesh)


def sampled_cameras(count: int, spec: ReconstructionSpec) -> camera_sets.Cameras:
    """The cameras of sampled sets of `count` views, [S, V]: what the sampling assumed."""
    d = spec.draft
    rings = [
        camera_sets.ring(count, elevation, d.fov_deg, d.distance, azimuth)
        for azimuth, elevation in d.sets
    ]
    return camera_sets.Cameras(*(jnp.concatenate(column) for column in zip(*rings, strict=True)))


def outlines(views: np.ndarray, spec: ReconstructionSpec) -> np.ndarray:
    """Soft masks [S * V, H, W] of the object in the sampled views [S, V, H, W, 3] on white.

    With `spec.draft.fill` what is white inside of an outline is the object too: the small model
    draws pale things, and hardly a hole.
    """
    mask = np.asarray(
        white_mask(jnp.asarray(views.reshape(-1, *views.shape[2:])), *spec.draft.white)
    )
    if not spec.draft.fill:
        return mask
    solid = mask > 0.5
    inside = np.stack([np.asarray(ndimage.binary_fill_holes(one)) for one in solid])
    return np.where(inside & ~solid, np.float32(1.0), mask)


def _carve(
    mask: np.ndarray, sides: camera_sets.Cameras | camera_sets.Poses, spec: ReconstructionSpec
) -> Array:
    return visual_hull(
        jnp.asarray(mask), sides, resolution=spec.draft.hull_resolution, radius=spec.field.radius
    )


def given_cameras(posed: PosedPictures) -> camera_sets.Poses:
    """The cameras of given pictures, on the device."""
    return camera_sets.Poses(
        jnp.asarray(posed.c2w, jnp.float32), jnp.asarray(posed.fov_deg, jnp.float32)
    )


def given_hull(posed: PosedPictures, spec: ReconstructionSpec) -> Array:
    """The visual hull [G, G, G] of given pictures; what none of them shows is ruled out by none."""
    mask = np.where(posed.seen, posed.masks, np.float32(1.0))
    return _carve(mask, given_cameras(posed), spec)


def given_source(posed: PosedPictures, spec: ReconstructionSpec) -> Pictures:
    """Given pictures as rays with colours and outlines, and their hull."""
    hull = given_hull(posed, spec) if spec.draft.hull else None
    return pictures.from_views(
        posed.on_white(), given_cameras(posed), jnp.asarray(posed.masks), hull, posed.seen
    )


def pose_views(views: Views, spec: ReconstructionSpec) -> PosedPictures:
    """Views of any cameras as given pictures; what is not white is the object, as in a draft."""
    d = spec.draft
    mask = outlines(np.asarray(views.images, np.float32)[None], spec)[..., None]
    colour = np.clip((views.images - (1 - mask)) / np.maximum(mask, 1e-3), 0.0, 1.0)
    cameras = camera_sets.as_poses(
        camera_sets.given_cameras(
            views.azimuth_deg, views.elevation_deg, d.fov_deg, scale=d.distance
        )
    )
    images = to_uint8(np.concatenate([colour, mask], -1))
    return PosedPictures(
        images, np.asarray(cameras.c2w, np.float64), np.asarray(cameras.fov_deg, np.float64),
        np.ones(images.shape[:3], bool), f"{len(images)} views with their cameras",
    )  # fmt: skip


def sampled_hull(views: np.ndarray, spec: ReconstructionSpec) -> Array:
    """The visual hull [G, G, G] of the sampled views [S, V, H, W, 3] over the scene's box."""
    return _carve(outlines(views, spec), sampled_cameras(views.shape[1], spec), spec)


def make_source(views: np.ndarray, spec: ReconstructionSpec) -> Pictures:
    """The sampled views [S, V, H, W, 3] as rays with colours and outlines, and their hull."""
    mask, sides = outlines(views, spec), sampled_cameras(views.shape[1], spec)
    hull = _carve(mask, sides, spec) if spec.draft.hull else None
    flat = jnp.asarray(views.reshape(-1, *views.shape[2:]))
    return pictures.from_views(flat, sides, jnp.asarray(mask), hull)


def load_views(file: Path) -> np.ndarray:
    """The sampled views [S, V, H, W, 3] of a run.

    Raises:
      UserError: the file is damaged.
    """
    return _read(file, "views")


def load_prepared(file: Path) -> np.ndarray:
    """The picture of a run as its encoder saw it, [H, W, 3], from the file of its views."""
    return _read(file, "prepared")


def _read(file: Path, name: str) -> np.ndarray:
    value = read_arrays(file, _REMEDY, [name])[name]
    if value.ndim != (5 if name == "views" else 3) or 0 in value.shape or value.shape[-1] != 3:
        raise UserError(f"{file} is damaged; {_REMEDY}")
    return value


def load_given(folder: str | Path) -> PosedPictures | None:
    """The pictures that a run was given with their cameras, or None where it drew its views.

    Raises:
      UserError: the file is damaged.
    """
    file = Path(folder) / GIVEN
    return PosedPictures.load_arrays(file, _REMEDY) if file.is_file() else None


def wants_hull(spec: ReconstructionSpec) -> bool:
    """Whether the surface is chosen by the hull."""
    return not spec.mesh.threshold and spec.show.surface == "hull"


def load_hull(folder: str | Path, spec: ReconstructionSpec) -> Array | None:
    """The visual hull of a run's views or pictures, or None where its surface needs none.

    Raises:
      UserError: the views are not there, or damaged.
    """
    if not wants_hull(spec):
        return None
    if (posed := load_given(folder)) is not None:
        return given_hull(posed, spec)
    file = Path(folder) / VIEWS
    if not file.is_file():
        raise UserError(
            f"{file} is missing: the surface is chosen by the sampled views; give --threshold"
        )
    return sampled_hull(load_views(file), spec)


def is_begun(out: Path) -> bool:
    """Whether a run's folder holds a draft, finished or not."""
    return state.exists(out / FOLDER)


def fit(
    source: Pictures, spec: ReconstructionSpec, denoiser_spec: DenoiserSpec, out: Path,
    metadata: dict, programs: dict[str, loop.Programs] | None, on_step: loop.OnStep | None = None,
    preview: Callable[[State, int], np.ndarray | None] | None = None,
):  # fmt: skip
    """Fits the sampled views in the folder's `draft/`; a stopped draft goes on too.

    Args:
      on_step: as of `loop.optimize`.
      preview: as of `loop.optimize`; not asked for the last iteration, since the run goes on.

    Returns:
      The draft, seconds by part, and what the run's report says about it.
    """
    folder = make_folder(out / FOLDER)
    draft = draft_spec(spec, denoiser_spec.resolution)
    metadata = {**metadata, "config": draft.to_dict()}
    if state.exists(folder):
        current = state.load(folder, draft)
        metadata = loop.go_on(folder, metadata, current, draft.steps, label="draft: ")
    else:
        current = state.start(draft)

    def early(current: State, step: int) -> np.ndarray | None:
        return None if preview is None or step >= draft.steps else preview(current, step)

    current, history, times = loop.optimize(
        current,
        source,
        draft,
        denoiser_spec,
        folder,
        metadata,
        label="draft from views",
        preview=None if preview is None else early,
        programs=programs,
        on_step=on_step,
    )
    facts = {
        "seed": metadata["config"]["seed"],
        "skipped_iterations": int(current.skipped),
        "wanted": loop.most_wanted(history),
        "changes": metadata.get("changes", []),
    }
    return current, {f"draft_{k}": round(v, 2) for k, v in times.items()}, facts


def begin_from(draft: State, spec: ReconstructionSpec) -> State:
    """A fresh optimizer on a draft's scene, past the part of the schedules that it stands for."""
    begin = state.start(spec, draft.params)
    return begin._replace(step=jnp.int32(round(spec.init_skip * spec.steps)), occs=draft.occs)
