"""The numbers of a reconstruction as frozen dataclasses, made once from a config.

`presets/reconstruct.py` says what each number is and where it is from; fields have the names of
that config's keys. A spec can be hashed, so that it is a static argument of compiled programs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from iso3d_jax.commands import config_checks
from iso3d_jax.core import specs
from iso3d_jax.core.errors import UserError
from iso3d_jax.geometry.camera_sets import CameraSpec
from iso3d_jax.guidance.annealing import Ramp
from iso3d_jax.guidance.sds import GuidanceSpec
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.render import RenderSpec

Range: TypeAlias = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class OccupancySpec:
    """The occupancy grid, see nerf/occupancy.py."""

    resolution: int
    every: int
    decay: float
    threshold: float
    warmup: int


@dataclasses.dataclass(frozen=True)
class LossSpec:
    """Weights of the losses of score distillation."""

    guidance: Ramp
    reference_l2: Ramp
    orientation: Ramp
    sparsity: Ramp
    opaque: Ramp


@dataclasses.dataclass(frozen=True)
class ReferenceSpec:
    """Where `loss.reference_l2` takes the picture to be seen from, and its outline's weight."""

    elevation_deg: float
    fov_deg: float
    distance: float
    mask: float


@dataclasses.dataclass(frozen=True)
class ShadingSpec:
    """From which iteration on, and how often, there is light."""

    start_step: int
    probability: float


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """AdamW with a learning rate for the hash grid and one for the networks."""

    encoding: float
    networks: float
    b1: float
    b2: float
    eps: float
    weight_decay: float
    final: float


@dataclasses.dataclass(frozen=True)
class DraftSpec:
    """A draft: which views it is fitted to, and the weights of its losses."""

    steps: int
    rays: int
    fov_deg: float
    distance: float
    sets: tuple[tuple[float, float], ...]
    white: Range
    fill: bool
    mask: Ramp
    hull: Ramp
    hull_resolution: int
    networks: float
    opaque: Ramp
    sparsity: Ramp
    orientation: Ramp


@dataclasses.dataclass(frozen=True)
class ShowSpec:
    """How the scene's edge is shown, and which density its surface has."""

    sharpness: float
    surface: str


@dataclasses.dataclass(frozen=True)
class VideoSpec:
    """The turntable."""

    frames: int
    resolution: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class MeshSpec:
    """The mesh."""

    resolution: int
    faces: int
    texture: int
    threshold: float
    remove_outliers: float


@dataclasses.dataclass(frozen=True)
class ReconstructionSpec:
    """All numbers of a reconstruction."""

    preset: str
    seed: int
    picture: str
    mode: str
    init: str
    init_skip: float
    steps: int
    views: int
    phases: tuple[tuple[int, int, int], ...]
    save_every: int
    preview_every: int
    steps_per_call: int
    max_bad_steps: int
    field: FieldSpec
    render: RenderSpec
    occupancy: OccupancySpec
    camera: CameraSpec
    guidance: GuidanceSpec
    loss: LossSpec
    reference: ReferenceSpec
    shading: ShadingSpec
    optimizer: OptimizerSpec
    parallelism: str
    memory: str
    draft: DraftSpec
    show: ShowSpec
    video: VideoSpec
    mesh: MeshSpec

    @property
    def rays(self) -> RenderSpec:
        """How an iteration samples rays: `render`, with little memory in smaller chunks."""
        low = self.memory == "low"
        return (
            dataclasses.replace(self.render, chunk=self.render.chunk // 4) if low else self.render
        )

    @property
    def rays_shown(self) -> RenderSpec:
        """The same with steps half as long, for pictures that people look at.

        A long step into a dense scene lands at another depth, and another colour, from pixel to
        pixel, which shows as rings like those of wood. Half a step is as opaque as half of the
        threshold, so that what was too thin to be optimized, and no more than that, is too thin to
        be seen.
        """
        rays = self.rays
        return dataclasses.replace(
            rays, step_size=rays.step_size / 2, alpha_threshold=rays.alpha_threshold / 2
        )

    @property
    def of_iterations(self) -> ReconstructionSpec:
        """What iterations are computed from: all else is at one value, and so are runs' programs.

        The seed is not among it: iterations are given its key.
        """
        return dataclasses.replace(
            self, preset="", seed=0, picture="", save_every=0, preview_every=0, steps_per_call=0,
            show=ShowSpec(1.0, ""), video=VideoSpec(0, 0, 0.0), mesh=MeshSpec(0, 0, 0, 0.0, 0.0),
        )  # fmt: skip

    def phase_at(self, step: int) -> int:
        """Index of the phase that iteration `step` (counted from 0) belongs to."""
        return next(i for i, (until, *_) in enumerate(self.phases) if step < until)

    def phase_end(self, phase: int) -> int:
        """The iteration at which a phase ends."""
        return min(self.phases[phase][0], self.steps)

    def to_dict(self) -> dict[str, Any]:
        """The config that this was made from, as plain values."""
        return dataclasses.asdict(self)


def make_spec(config: ConfigDict | Mapping[str, Any]) -> ReconstructionSpec:
    """The spec of a config: a ConfigDict of presets/reconstruct.py, or a dict that was one.

    Raises:
      UserError: a key is missing, nobody knows it, or a value makes no sense.
    """
    config_checks.check(config)
    try:
        made = specs.make(ReconstructionSpec, config)
    except TypeError as error:
        raise UserError(
            f"this is no config of a reconstruction by this version: {error}; start from "
            "configs/reconstruct.py, or reconstruct again"
        ) from None
    if made.phases[-1][0] < made.steps:
        raise UserError(
            f"config.phases end at iteration {made.phases[-1][0]} but config.steps is "
            f"{made.steps}: choose the number of iterations with the preset, as in "
            f"configs/reconstruct.py:tiny,steps={made.steps}"
        )
    return made
