"""From a reconstruction config to the specifications that the compiled programs are made for."""

from __future__ import annotations

import dataclasses
import json

from ml_collections import ConfigDict, FrozenConfigDict

from iso3d_jax.commands import config_checks
from iso3d_jax.core.errors import UserError
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.hash_grid import HashGridSpec
from iso3d_jax.nerf.render import RenderSpec

# what may differ between a run and its continuation, and changes nothing of the optimisation
FREE_KEYS = (
    "save_every", "preview_every", "steps_per_call", "max_bad_steps", "memory", "show", "video",
    "mesh",
)  # fmt: skip
# what a continuation may change for the iterations that are left; the report says so
LIVE_KEYS = ("seed", "optimizer.encoding", "optimizer.networks", "guidance.scale")


def field_spec(cfg: ConfigDict) -> FieldSpec:
    """The scene's parameters, from `cfg.field`."""
    f = cfg.field
    grid = HashGridSpec(f.levels, f.features, f.log2_table_size, f.base_resolution, f.growth)
    return FieldSpec(grid, f.hidden, f.radius, f.blob_scale, f.blob_std)


def shown_field_spec(cfg: ConfigDict) -> FieldSpec:
    """The same as people see it, in pictures and as a mesh: `cfg.show.density_scale` more solid."""
    return dataclasses.replace(field_spec(cfg), density_scale=cfg.show.density_scale)


def render_spec(cfg: ConfigDict) -> RenderSpec:
    """How rays are sampled, from `cfg.render`; with little memory in smaller chunks."""
    spec = RenderSpec(**cfg.render.to_dict())
    low = cfg.memory == "low"
    return dataclasses.replace(spec, chunk=spec.chunk // 4) if low else spec


def generous(spec: RenderSpec) -> RenderSpec:
    """The same with steps half as long and twice as many, for pictures that people look at.

    A long step into a dense scene lands at another depth, and another colour, from pixel to pixel,
    which shows as rings like those of wood. Half a step is as opaque as half of the threshold, so
    that what was too thin to be optimised, and no more than that, is too thin to be seen.
    """
    return dataclasses.replace(
        spec, step_size=spec.step_size / 2, candidates=2 * spec.candidates,
        samples=2 * spec.samples, alpha_threshold=spec.alpha_threshold / 2,
    )  # fmt: skip


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


def live_keys(config: dict) -> tuple[str, ...]:
    """`LIVE_KEYS`, and for a draft the rate of its networks too."""
    return LIVE_KEYS + (("draft.networks",) if config["mode"] == "views" else ())


def comparable(config: dict, *, live: bool = False) -> dict:
    """The part of a config, as a dict, that a continued run must share; lists for tuples.

    Args:
      live: with `LIVE_KEYS`, which the iterations that are done were made with.
    """
    kept = json.loads(json.dumps({k: v for k, v in config.items() if k not in FREE_KEYS}))
    for name in () if live else live_keys(config):
        *folders, key = name.split(".")
        inner = kept
        for folder in folders:
            inner = inner.get(folder, {})
        inner.pop(key, None)
    return kept


def changes(before: dict, now: dict, iteration: int) -> list[dict]:
    """Which of `LIVE_KEYS` a continued run changes, with the iteration from which it does."""

    def value(config, name):
        for key in name.split("."):
            config = config[key]
        return config

    return [
        {"iteration": iteration, "key": name, "from": value(before, name), "to": value(now, name)}
        for name in live_keys(now)
        if value(before, name) != value(now, name)
    ]


def phase_of(cfg, step: int) -> int:
    """Index of the phase that iteration `step` (counted from 0) belongs to."""
    return next(i for i, (until, *_) in enumerate(cfg.phases) if step < until)


def phase_end(cfg, phase: int) -> int:
    """The iteration at which a phase ends."""
    return min(cfg.phases[phase][0], cfg.steps)
