"""A model as a folder: `model.json` (what it is) and `model.safetensors` (its weights).

A bundle holds any of the three networks; a complete one holds all. `model.json` carries everything
a user would otherwise have to remember: resolution, camera encoding, parameterization, scale.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import atomic_path, explain_os_errors
from iso3d_jax.core.json_files import read_object
from iso3d_jax.core.progress import Progress, Steps
from iso3d_jax.diffusion.schedule import make_schedule
from iso3d_jax.models import registry
from iso3d_jax.models.clip import ImageTower
from iso3d_jax.models.params import InitialKeys, merge_params, split_shapes
from iso3d_jax.models.unet import MultiViewUNet
from iso3d_jax.models.vae import Autoencoder
from iso3d_jax.weights import compact, facts
from iso3d_jax.weights.folders import WEIGHTS, find_bundle, open_weights
from iso3d_jax.weights.model_spec import ModelSpec
from iso3d_jax.weights.safetensors_file import Entry, write_safetensors
from iso3d_jax.weights.tensors import LazyTensor

LARGE = 200 << 20  # bytes; loading fewer is over before one would read of it


@dataclasses.dataclass
class Model:
    """The networks with what is needed to use them rightly.

    Networks that were not loaded are None, whatever `config` says of them.
    """

    config: ModelSpec
    unet: MultiViewUNet | None = None
    vae: Autoencoder | None = None
    clip: ImageTower | None = None

    @functools.cached_property
    def alphas_cumprod(self) -> np.ndarray:
        return make_schedule()

    @property
    def dtype(self) -> str:
        """The networks' compute type, such as 'bfloat16'."""
        network = next(n for n in (self.unet, self.vae, self.clip) if n is not None)
        return jnp.dtype(network.dtype).name


def make_config(settings: ModelSpec) -> ModelSpec:
    """What a bundle says of itself: a training's `model`, with the sizes that follow from it."""
    vae = settings.network("vae")
    return dataclasses.replace(
        settings,
        latent_size=settings.resolution // vae.factor,
        latent_channels=vae.latent_channels,
        context_dim=settings.network("unet").context_dim,
    )


@overload
def build_network(
    name: Literal["unet"], config: ModelSpec, seed: int = 0, dtype: DTypeLike = jnp.float32
) -> MultiViewUNet: ...
@overload
def build_network(
    name: Literal["vae"], config: ModelSpec, seed: int = 0, dtype: DTypeLike = jnp.float32
) -> Autoencoder: ...
@overload
def build_network(
    name: Literal["clip"], config: ModelSpec, seed: int = 0, dtype: DTypeLike = jnp.float32
) -> ImageTower: ...
@overload
def build_network(
    name: str, config: ModelSpec, seed: int = 0, dtype: DTypeLike = jnp.float32
) -> nnx.Module: ...
def build_network(
    name: str, config: ModelSpec, seed: int = 0, dtype: DTypeLike = jnp.float32
) -> nnx.Module:
    """A freshly initialised network of a bundle's config."""
    return _build(name, config.network(name), seed, dtype)


def _build(name: str, numbers: Any, seed: int, dtype: DTypeLike) -> nnx.Module:
    kind = registry.find_by_numbers(name, numbers)
    return kind.module(numbers, rngs=InitialKeys(seed), dtype=dtype)


def abstract_network(name: str, config: ModelSpec, dtype=jnp.float32):
    """(graphdef, {path: ShapeDtypeStruct}) without allocating anything."""
    numbers = config.network(name)  # refused by its own name, and not as numbers that do not fit
    try:
        graphdef, shapes = _abstract_network(name, numbers, jnp.dtype(dtype))
        return graphdef, dict(shapes)
    except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError) as error:
        raise UserError(
            f"the numbers in the model's section '{name}' do not fit each other: {shorten(error)}"
        ) from error


@functools.lru_cache(maxsize=32)
def _abstract_network(name: str, numbers: Any, dtype: DTypeLike):
    """Of a network's numbers alone: seconds at full size, and asked for several times in a run."""
    return split_shapes(nnx.eval_shape(lambda: _build(name, numbers, 0, dtype)))


def save_bundle(
    path: str | Path, config: ModelSpec, weights: dict[str, dict], dtype=jnp.bfloat16
) -> None:
    """Writes a bundle, atomically, each weight turned into its type when its turn comes.

    Args:
      path: folder.
      config: the bundle's config (`make_config`).
      weights: {"unet" | "vae" | "clip": flat params}.
      dtype: what to store; None keeps each array's own, int8 is a byte a weight (`compact.py`).
        The camera's MLP is stored as float32 in any case but int8's.
    """
    entries = []
    for name, params in weights.items():
        for key, value in params.items():
            if dtype == jnp.int8:
                packed = compact.pack(f"{name}/{key}", value)
                entries += [_entry(part, stored, stored.dtype) for part, stored in packed.items()]
            else:
                kind = param_dtype_for(key, dtype) if dtype else value.dtype
                entries.append(_entry(f"{name}/{key}", value, kind))
    write_safetensors(Path(path) / WEIGHTS, entries)
    with atomic_path(Path(path) / "model.json") as temporary:
        temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def _entry(key: str, value, dtype) -> Entry:
    """What the writer needs of a weight that is to be stored in a type."""
    return key, value.shape, np.dtype(dtype), lambda: np.asarray(value).astype(dtype)


def load_config(path: str | Path | None) -> ModelSpec:
    """A bundle's model.json.

    Raises:
      UserError: no such folder, or facts or numbers that no model can have.
    """
    file = find_bundle(path) / "model.json"
    content = read_object(file)
    facts.check(content, file)
    return ModelSpec.read(content)


def _told(keys: list[str], stored: Mapping[str, LazyTensor], folder: Path) -> Iterator[str]:
    """The keys of a bundle's weights, with the bytes read so far shown where they are many."""
    total = sum(stored[key].nbytes for key in keys)
    if total < LARGE:
        yield from keys
        return
    progress, done = Progress(total >> 20, f"loading {folder}", unit="MiB"), 0
    progress.say("")
    for key in keys:
        yield key
        done += stored[key].nbytes
        progress.update(done >> 20)
    progress.close()


def load_weights(
    path: str | Path | None, names: tuple[str, ...], dtype: DTypeLike | None = None
) -> dict[str, dict]:
    """Weights of the named networks.

    They are cast before they reach the device, one by one: there a cast, or a copy by
    `jnp.asarray`, is a program to compile for each shape of a weight.

    Args:
      dtype: type of the weights but the camera's MLP, which is float32 then; None is the type they
        are stored in (of bytes: float32).

    Returns:
      {name: flat params}.
    """
    folder = find_bundle(path)
    stored = open_weights(folder)
    weights: dict[str, dict] = {name: {} for name in names}
    wanted = [
        key
        for key in stored
        if key.partition("/")[0] in weights and not key.endswith(compact.SCALE)
    ]
    for key in _told(wanted, stored, folder):
        name, _, rest = key.partition("/")
        value = stored[key].read()
        if key + compact.SCALE in stored:
            scale = stored[key + compact.SCALE].read()
            if scale.shape != value.shape[-1:]:
                raise UserError(f"{folder / WEIGHTS} is damaged: the scales of {key} do not fit it")
            value = compact.unpack(value, scale)
        kind = value.dtype if dtype is None else jnp.dtype(param_dtype_for(rest, dtype))
        weights[name][rest] = jax.device_put(np.array(value, kind))  # a copy: the file may go
    return weights


def param_dtype_for(path: str, dtype):
    """The type of a network's weight where the others are `dtype`.

    The camera's MLP stays float32: in bfloat16 the released camera vectors, which all lie within
    seven degrees, would run into each other.
    """
    return jnp.float32 if path.startswith("camera_embed/") else dtype


def load_network(
    name: str,
    config: ModelSpec,
    params: dict,
    where: str,
    dtype=jnp.float32,
    param_dtype=jnp.float32,
) -> nnx.Module:
    """A network with given weights; UserError where they do not fit the config."""
    graphdef, shapes = abstract_network(name, config, dtype)
    missing, extra = sorted(set(shapes) - set(params)), sorted(set(params) - set(shapes))
    if missing or extra:
        parts = [
            f"{len(keys)} {word} (such as {keys[0]})"
            for keys, word in ((missing, "missing"), (extra, "unknown"))
            if keys
        ]
        raise UserError(
            f"the weights of '{name}' in {where} do not fit its config: {', '.join(parts)}"
        )
    for key, shape in shapes.items():
        if params[key].shape != shape.shape:
            raise UserError(
                f"weight {name}/{key} in {where} has shape {params[key].shape}, "
                f"but the config asks for {shape.shape}"
            )
    return merge_params(
        graphdef,
        {key: jnp.asarray(params[key], param_dtype_for(key, param_dtype)) for key in shapes},
    )


# The facts without which a network cannot be used rightly.
_NEEDS = {
    "unet": ("parameterization", "context_dim"),
    "vae": ("resolution", "scale_factor", "latent_size", "latent_channels"),
    "clip": (),
}


def default_dtype() -> str:
    """What networks that are not trained run in: bfloat16 where the device is fast at it."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


@explain_os_errors()
def load_model(
    path: str | Path | None = None,
    dtype=None,
    networks: tuple[str, ...] = ("unet", "vae", "clip"),
    param_dtype=None,
) -> Model:
    """Loads a model folder, or a training run's; None is the tiny model of the package.

    Args:
      path: folder with model.json, or a workdir whose `model/` has one.
      dtype: compute type of the networks; None is `default_dtype`, bfloat16 on GPUs and TPUs.
      networks: which to load; each must be in the bundle.
      param_dtype: type of the weights in memory, `dtype` if None; the camera's MLP is float32 in
        any case.

    Raises:
      UserError: no such model, damaged or unfitting files, a network that it lacks.
    """
    dtype = jnp.dtype(default_dtype() if dtype is None else dtype)
    param_dtype = dtype if param_dtype is None else param_dtype
    folder = find_bundle(path)
    config = load_config(folder)
    weights = load_weights(folder, networks, param_dtype)
    size = sum(value.nbytes for params in weights.values() for value in params.values())
    steps = Steps("building") if size >= LARGE else None
    loaded = {}
    for name in networks:
        if not weights[name]:
            raise UserError(f"the model in {folder} has no weights for '{name}'")
        if lacking := [fact for fact in _NEEDS[name] if not config.has(fact)]:
            raise UserError(f"{folder / 'model.json'} is damaged: it has no '{lacking[0]}'")
        if steps is not None:
            steps(f"{name} in {jnp.dtype(param_dtype).name}", 0, 0)
        loaded[name] = load_network(
            name, config, weights.pop(name), str(folder), dtype, param_dtype
        )
    if steps is not None:
        steps.close()
    return Model(config=config, **loaded)
