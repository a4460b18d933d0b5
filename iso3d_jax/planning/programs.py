"""Every program of the full-size road, from shapes alone: nothing is allocated, nothing runs.

The road is: a picture's embedding, sampling, decoding, score distillation at both resolutions, the
draft, the turntable; encoding (with its backward pass, which distillation takes), and a step of
each branch of training. Each is what the commands run, with their configs.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from iso3d_jax import sampling
from iso3d_jax.commands import config_files
from iso3d_jax.data import encode
from iso3d_jax.nerf import field, showing
from iso3d_jax.planning import compile_for
from iso3d_jax.reconstruction import losses, state
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.losses import Denoiser, DenoiserSpec, Pictures
from iso3d_jax.reconstruction.spec import ReconstructionSpec, make_spec
from iso3d_jax.reconstruction.step import run_steps
from iso3d_jax.training import loop
from iso3d_jax.training.optimizer import make_optimizer
from iso3d_jax.training.spec import StageSpec
from iso3d_jax.weights import bundle
from iso3d_jax.weights.model_spec import ModelSpec

BRANCHES = ("1-a", "1-b", "2-a", "2-b")


class Program(NamedTuple):
    """A function of arrays and the shapes that it is called with."""

    name: str
    function: Callable
    arguments: tuple
    donated: tuple[int, ...] = ()  # arguments in whose place results are


class Specs(NamedTuple):
    """What the road runs with: a reconstruction, and a training a stage (`compile_for.settle`)."""

    reconstruct: ReconstructionSpec
    stages: dict[int, StageSpec]


def full_size_specs() -> Specs:
    """Those of the presets of the released size."""
    return Specs(
        make_spec(config_files.load_config("reconstruct:isotropic3d")),
        {i: compile_for.settle(config_files.load_config(f"stage{i}")) for i in (1, 2)},
    )


def abstract_module(
    name: str, config: ModelSpec, dtype, param_dtype=None, sharding=None
) -> nnx.Module:
    """A network whose weights are shapes, as `load_model(dtype, param_dtype)` has it in memory.

    Args:
      sharding: where the weights would be; None is this machine.
    """
    graphdef, shapes = bundle.abstract_network(name, config, dtype)
    held = dtype if param_dtype is None else param_dtype
    weights: dict[str, Any] = {  # shapes in the place of arrays
        path: jax.ShapeDtypeStruct(
            leaf.shape, bundle.param_dtype_for(path, held), sharding=sharding
        )
        for path, leaf in shapes.items()
    }
    return bundle.merge_params(graphdef, weights)


def _shape(shape: tuple[int, ...], dtype=jnp.float32) -> Any:
    """What stands in for an array: its shape and type."""
    return jax.ShapeDtypeStruct(shape, dtype)


def _shapes_of(tree):
    return jax.tree.map(lambda x: _shape(jnp.shape(x), jnp.result_type(x)), tree)


def road(specs: Specs, dtype) -> Iterator[Program]:
    """The road's programs in order.

    Args:
      specs: of the full-size presets.
      dtype: of networks and their weights, `float32` or `bfloat16`.
    """
    dtype = jnp.dtype(dtype)
    config = bundle.make_config(specs.stages[1].model)
    unet, vae, clip = (abstract_module(name, config, dtype) for name in ("unet", "vae", "clip"))
    side = config.resolution
    yield Program("embedding", sampling._embed, (clip, _shape((1, side, side, 3))))
    yield _sampling(unet, config, specs.reconstruct.views)
    views = _shape((1, specs.reconstruct.views, *config.latent_shape))
    yield Program("decoding", sampling.decode_views, (vae, views))
    yield from _reconstruction(unet, vae, config, specs.reconstruct)
    yield from _encoding(vae, clip, side)
    for stage, cfg in specs.stages.items():
        yield from _steps(cfg, stage, dtype)


def _sampling(unet, config: ModelSpec, num_views: int) -> Program:
    own = sampling.settings(config)
    numbers = {name: own.pop(name) for name in ("guidance_scale", "eta", "temperature")}

    def sample(unet, context, camera, alphas_cumprod, numbers):
        key = jax.random.key(0)
        return sampling.sample_latents(unet, context, camera, alphas_cumprod, key, **numbers, **own)

    shapes = (
        _shape((1, 1, config.context_dim)), _shape((num_views, 16)), _shape((1000,)),
        jax.tree.map(lambda _: _shape(()), numbers),
    )  # fmt: skip
    return Program(f"sampling of {own['steps']} steps", sample, (unet, *shapes))


def _reconstruction(unet, vae, config: ModelSpec, spec: ReconstructionSpec) -> Iterator[Program]:
    side = config.resolution
    denoiser_spec = DenoiserSpec(
        side, float(config.scale_factor), config.parameterization, config.camera_encoding
    )
    prior = Denoiser(
        unet, vae, _shape((1, 1, config.context_dim)), _shape((1000,)), _shape((side, side, 3)),
        _shape((side, side)),
    )  # fmt: skip
    main = _shapes_of(jax.eval_shape(lambda: state.start(spec)))
    key = jax.eval_shape(lambda: jax.random.key(0))

    def run(spec, phase):
        return functools.partial(
            inspect.unwrap(run_steps), capacity=spec.steps_per_call, spec=spec,
            denoiser_spec=denoiser_spec, phase=phase,
        )  # fmt: skip

    for phase, (_, size, _) in enumerate(spec.phases):
        yield Program(
            f"SDS at {size}", run(spec, phase), (main, prior, _shape((), jnp.int32), key), (0,)
        )
    fitted = draft.draft_spec(spec, side)
    rays = len(spec.draft.sets) * spec.views * side**2
    grid = (spec.draft.hull_resolution,) * 3
    seen = Pictures(
        *(_shape((rays, 3)) for _ in range(3)), _shape((rays,)),  # pyright: ignore[reportCallIssue]
        _shape(grid) if spec.draft.hull else None,  # pyright: ignore[reportCallIssue]
    )  # fmt: skip
    first = _shapes_of(jax.eval_shape(lambda: state.start(fitted)))
    yield Program("draft", run(fitted, 0), (first, seen, _shape((), jnp.int32), key), (0,))
    rays = spec.rays_shown
    show = functools.partial(showing.render_shown, spec=rays, field_spec=spec.field)
    grid = jax.eval_shape(lambda scene: state.make_grid(scene, spec), main)
    shown = jax.eval_shape(field.with_edge, main.params)
    ends = (_shape((showing.rays_at_once(rays, spec.field), 3)) for _ in range(2))
    yield Program("turntable", show, (shown, *ends, grid))


def _encoding(vae, clip, side: int) -> Iterator[Program]:
    views = 16

    def encode_object(vae, clip, images, prepared, number):
        return encode.encode_objects(vae, clip, 0, images, prepared, number, 2)

    shapes = (
        _shape((1, views, side, side, 4), jnp.uint8),
        _shape((1, 1, views, side, side, 4), jnp.uint8), _shape((1,), jnp.int32),
    )  # fmt: skip
    yield Program("encoding", encode_object, (vae, clip, *shapes))

    def backward(vae, images):
        def loss(images):
            return losses.encode(vae, images, jax.random.key(0), 1.0, "normal").sum()

        return jax.grad(loss)(images)

    yield Program("encoding, backward", backward, (vae, _shape((8, side, side, 3))))


def _steps(cfg: StageSpec, stage: int, dtype, batch_size: int = 8) -> Iterator[Program]:
    cfg = dataclasses.replace(cfg, batch_size=batch_size, dtype=dtype.name)
    task = compile_for.AbstractTask(cfg)
    tx = make_optimizer(cfg)
    step = functools.partial(task.train_step, graphdef=task.graphdef, tx=tx, cfg=cfg)
    shapes = loop.abstract_state(task, tx, cfg)
    for branch in (branch for branch in BRANCHES if int(branch[0]) == stage):
        batch = compile_for.abstract_batch(cfg, branch)
        yield Program(f"step of {branch}", step, (shapes, batch), (0,))
