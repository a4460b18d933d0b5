"""From a reconstruction config to the specifications that the compiled programs are made for."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict, FrozenConfigDict

from iso3d_jax import config_checks
from iso3d_jax.errors import UserError
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.hash_grid import HashGridSpec
from iso3d_jax.nerf.render import RenderSpec

# what may differ between a run and its continuation
FREE_KEYS = ("save_every", "preview_every", "steps_per_call", "memory", "show", "video", "mesh")


def field_spec(cfg: ConfigDict) -> FieldSpec:
    """The scene's parameters, from `cfg.field`."""
    f = cfg.field
    grid = HashGridSpec(f.levels, f.features, f.log2_table_size, f.base_resolution, f.growth)
    return FieldSpec(grid, f.hidden, f.radius, f.blob_scale, f.blob_std)


def shown_field_spec(cfg: ConfigDict) -> FieldSpec:
    """The same as people see it, in pictures and as a mesh: `cfg.show.density_scale` more solid."""
    scale = cfg.show.density_scale if "show" in cfg else 1.0
    return dataclasses.replace(field_spec(cfg), density_scale=scale)


def render_spec(cfg: ConfigDict) -> RenderSpec:
    """How rays are sampled, from `cfg.render`; with little memory in smaller chunks."""
    spec = RenderSpec(**cfg.render.to_dict())
    low = cfg.get("memory", "normal") == "low"
    return dataclasses.replace(spec, chunk=spec.chunk // 4) if low else spec


def generous(spec: RenderSpec) -> RenderSpec:
    """The same with steps half as long and twice as many, for pictures that people look at.

    A long step into a dense scene lands at another depth, and another colour, from pixel to pixel,
    which shows as rings like those of wood.
    """
    return dataclasses.replace(
        spec, step_size=spec.step_size / 2, candidates=2 * spec.candidates, samples=2 * spec.samples
    )


def freeze(cfg: ConfigDict) -> FrozenConfigDict:
    """The config as a static argument of compiled programs; lists become tuples."""
    return FrozenConfigDict(cfg)


def check(cfg: ConfigDict) -> None:
    """Refuses settings that make no sense, in one sentence."""
    config_checks.check(cfg)
    if cfg.phases[-1][0] < cfg.steps:
        raise UserError(
            f"config.phases end at iteration {cfg.phases[-1][0]} but config.steps is {cfg.steps}: "
            "choose the number of iterations with the preset, as in configs/reconstruct.py:tiny,"
            f"steps={cfg.steps}"
        )


def comparable(cfg: ConfigDict) -> dict:
    """The part of a config that a continued run must share."""
    return {key: value for key, value in cfg.to_dict().items() if key not in FREE_KEYS}


def phase_of(cfg, step: int) -> int:
    """Index of the phase that iteration `step` (counted from 0) belongs to."""
    return next(i for i, (until, *_) in enumerate(cfg.phases) if step < until)


def phase_end(cfg, phase: int) -> int:
    """The iteration at which a phase ends."""
    return min(cfg.phases[phase][0], cfg.steps)
