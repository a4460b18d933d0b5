"""A draft: a scene fitted to the sampled views, for distillation to begin from; and their hull."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict
from scipy import ndimage

from iso3d_jax.core.arrays_file import read_arrays
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import make_folder
from iso3d_jax.reconstruction import cameras, loop, pictures, state
from iso3d_jax.reconstruction.init.hull import visual_hull
from iso3d_jax.reconstruction.losses import Pictures, PriorSpec, white_mask
from iso3d_jax.reconstruction.state import State

FOLDER = "draft"  # of a run's folder


def config_of(cfg: ConfigDict, resolution: int) -> ConfigDict:
    """The config of the draft that belongs to a reconstruction's config."""
    draft = ConfigDict(cfg.to_dict())
    draft.mode = "views"
    draft.steps = cfg.draft.steps
    draft.phases = ((cfg.draft.steps, resolution, 1),)
    draft.occupancy.warmup = cfg.draft.steps
    draft.optimizer.networks = cfg.draft.networks
    return draft


def _cameras_of(views: np.ndarray, cfg: ConfigDict) -> cameras.Views:
    """The cameras of the sampled views [S, V, H, W, 3]: what the sampling assumed."""
    d = cfg.draft
    rings = [
        cameras.ring(views.shape[1], elevation, d.fov_deg, d.distance, azimuth)
        for azimuth, elevation in d.sets
    ]
    return cameras.Views(*(jnp.concatenate(column) for column in zip(*rings, strict=True)))


def outlines(views: np.ndarray, cfg: ConfigDict) -> np.ndarray:
    """Soft masks [S * V, H, W] of the object in the sampled views [S, V, H, W, 3] on white.

    With `cfg.draft.fill` what is white inside of an outline is the object too: the small model
    draws pale things, and hardly a hole.
    """
    mask = np.asarray(
        white_mask(jnp.asarray(views.reshape(-1, *views.shape[2:])), *cfg.draft.white)
    )
    if not cfg.draft.fill:
        return mask
    solid = mask > 0.5
    inside = np.stack([np.asarray(ndimage.binary_fill_holes(one)) for one in solid])
    return np.where(inside & ~solid, np.float32(1.0), mask)


def _hull_of(mask: np.ndarray, sides: cameras.Views, cfg: ConfigDict) -> Array:
    return visual_hull(
        jnp.asarray(mask), sides, resolution=cfg.draft.hull_resolution, radius=cfg.field.radius
    )


def sampled_hull(views: np.ndarray, cfg: ConfigDict) -> Array:
    """The visual hull [G, G, G] of the sampled views [S, V, H, W, 3] over the scene's box."""
    return _hull_of(outlines(views, cfg), _cameras_of(views, cfg), cfg)


def source_of(views: np.ndarray, cfg: ConfigDict) -> Pictures:
    """The sampled views [S, V, H, W, 3] as rays with colours and outlines, and their hull."""
    mask, sides = outlines(views, cfg), _cameras_of(views, cfg)
    hull = _hull_of(mask, sides, cfg) if cfg.draft.hull else None
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
    remedy = "delete it and state.npz beside it, and the same command starts again"
    value = read_arrays(file, remedy, [name])[name]
    if value.ndim != (5 if name == "views" else 3) or 0 in value.shape or value.shape[-1] != 3:
        raise UserError(f"{file} is damaged; {remedy}")
    return value


def wants_hull(cfg: ConfigDict) -> bool:
    """Whether the surface is chosen by the hull."""
    return not cfg.mesh.threshold and cfg.show.surface == "hull"


def load_hull(folder: str | Path, cfg: ConfigDict) -> Array | None:
    """The visual hull of a run's sampled views, or None where its surface needs none.

    Raises:
      UserError: the views are not there, or damaged.
    """
    if not wants_hull(cfg):
        return None
    file = Path(folder) / "views.npz"
    if not file.is_file():
        raise UserError(
            f"{file} is missing: the surface is chosen by the sampled views; give --threshold"
        )
    return sampled_hull(load_views(file), cfg)


def is_begun(out: Path) -> bool:
    """Whether a run's folder holds a draft, finished or not."""
    return state.exists(out / FOLDER)


def fit(
    source: Pictures, cfg: ConfigDict, spec: PriorSpec, out: Path, about: dict, programs,
    on_step: loop.OnStep | None = None,
):  # fmt: skip
    """Fits the sampled views in the folder's `draft/`; a stopped draft goes on too.

    Args:
      on_step: as of `loop.optimise`.

    Returns:
      The draft, seconds by part, and what the run's report says about it.
    """
    folder = make_folder(out / FOLDER)
    draft = config_of(cfg, spec.resolution)
    about = {**about, "config": draft.to_dict()}
    if state.exists(folder):
        current = state.load(folder, draft)
        about = loop.go_on(folder, about, current, draft.steps, label="draft: ")
    else:
        current = state.start(draft)
    current, history, times = loop.optimise(
        current,
        source,
        draft,
        spec,
        folder,
        about,
        label="draft from views",
        programs=programs,
        on_step=on_step,
    )
    facts = {
        "seed": about["config"]["seed"],
        "skipped_iterations": int(current.skipped),
        "wanted": loop.most_wanted(history),
        "changes": about.get("changes", []),
    }
    return current, {f"draft_{k}": round(v, 2) for k, v in times.items()}, facts


def begin_from(draft: State, cfg: ConfigDict) -> State:
    """A fresh optimizer on a draft's scene, past the part of the schedules that it stands for."""
    begin = state.start(cfg, draft.params)
    return begin._replace(step=jnp.int32(round(cfg.init_skip * cfg.steps)), occs=draft.occs)
