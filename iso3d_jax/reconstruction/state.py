"""What changes while a scene is optimised, its optimizer, and its file."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iso3d_jax.core.arrays_file import read_arrays
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path
from iso3d_jax.core.json_files import parse_json
from iso3d_jax.guidance.annealing import ramp
from iso3d_jax.nerf import field, occupancy
from iso3d_jax.nerf.occupancy import Grid
from iso3d_jax.reconstruction.spec import ReconstructionSpec, make_spec

FILE = "state.npz"
REMEDY = "delete it to start again"


class State(NamedTuple):
    """What an iteration changes.

    Attributes:
      step: iterations done, those left out among them.
      params: the field's.
      opt_state: optax's.
      occs: occupancy grid.
      skipped: iterations left out because a loss or a gradient was not finite.
      in_a_row: how many of these there were since the last finite one.
    """

    step: jax.Array
    params: dict
    opt_state: Any
    occs: jax.Array
    skipped: jax.Array
    in_a_row: jax.Array


def optimizer(spec: ReconstructionSpec) -> optax.GradientTransformation:
    """AdamW with a learning rate for the hash grid and one for the networks (the released
    configs/isotropic3d-shading.yaml)."""
    o = spec.optimizer

    def group(rate):
        def schedule(count):
            return rate * ramp((spec.steps // 2, 1.0, o.final, spec.steps), count)

        rate_ = rate if o.final == 1.0 else schedule
        return optax.adamw(rate_, b1=o.b1, b2=o.b2, eps=o.eps, weight_decay=o.weight_decay)

    labels = {"encoding": "encoding", "density": "networks", "colour": "networks"}
    return optax.multi_transform(
        {"encoding": group(o.encoding), "networks": group(o.networks)}, lambda params: labels
    )


def start(spec: ReconstructionSpec, params: dict | None = None) -> State:
    """A new state, from given field parameters or from the blob."""
    key = jax.random.key(spec.seed)
    first = field.init(key, spec.field) if params is None else params
    own: dict = jax.tree.map(lambda x: jnp.array(x, copy=True), first)
    occs = occupancy.init(spec.occupancy.resolution)
    step, skipped, in_a_row = (jnp.array(0, jnp.int32) for _ in range(3))
    return State(step, own, optimizer(spec).init(own), occs, skipped, in_a_row)


def make_grid(state: State, spec: ReconstructionSpec) -> Grid:
    """The occupancy grid as rays use it."""
    return occupancy.grid(state.occs, spec.occupancy.threshold, spec.render.step_size)


def _named(state: State) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def save(folder: str | Path, state: State, metadata: dict) -> Path:
    """Writes the state and `metadata` (plain JSON values) as one file, atomically."""
    path = Path(folder) / FILE
    with atomic_path(path) as temporary:
        np.savez(temporary, about=json.dumps(metadata), **_named(jax.device_get(state)))
    return path


def exists(folder: str | Path) -> bool:
    """Whether the folder holds a reconstruction."""
    return (Path(folder) / FILE).is_file()


def _open(folder: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(
            f"{folder} holds no reconstruction: it has no {FILE} (give --run the folder that "
            "reconstruct wrote with --out)"
        )
    return read_arrays(path, REMEDY, names)


def load_metadata(folder: str | Path) -> dict:
    """What `save` was told about the run."""
    path = Path(folder) / FILE
    try:
        about = parse_json(str(_open(folder, ["about"])["about"]), finite=False)
    except ValueError:
        raise UserError(f"{path} is damaged; {REMEDY}") from None
    if not isinstance(about, dict) or not isinstance(about.get("config"), dict):
        raise UserError(f"{path} is damaged; {REMEDY}")
    return about


def load_spec(folder: str | Path) -> ReconstructionSpec:
    """The numbers that the run was made with.

    Raises:
      UserError: no run, a damaged one, or one of a version with other numbers.
    """
    config = load_metadata(folder)["config"]
    try:
        return make_spec(config)
    except UserError as error:
        raise UserError(f"{Path(folder) / FILE}: {error}") from None


def load_step(folder: str | Path) -> int:
    """How many iterations of a run are done."""
    step = _open(folder, [".step"])[".step"]
    if step.shape != () or step.dtype.kind != "i":
        raise UserError(f"{Path(folder) / FILE} is damaged; {REMEDY}")
    return int(step)


def load(folder: str | Path, spec: ReconstructionSpec) -> State:
    """The state of a run with this config.

    Raises:
      UserError: no state, a damaged one, or one of other shapes.
    """
    template = jax.eval_shape(lambda: start(spec))
    data, values = _open(folder), []
    for name, leaf in _named(template).items():
        if name not in data or data[name].shape != leaf.shape:
            raise UserError(f"the reconstruction in {folder} does not fit the config ({name})")
        values.append(jnp.asarray(data[name], leaf.dtype))
    return jax.tree.unflatten(jax.tree.structure(template), values)
