"""The scene: hash grid, an iteration of score distillation and its parts, many iterations."""

import functools
import os
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import reconstruction_breakdown as breakdown
from measuring import Program, compile_all, seconds_a_call
from on_accelerator.setting import Bench

from iso3d_jax import sampling
from iso3d_jax.data.pictures import load_picture
from iso3d_jax.nerf import field, look_up
from iso3d_jax.reconstruction import run, state
from iso3d_jax.reconstruction.losses import Denoiser, DenoiserSpec
from iso3d_jax.reconstruction.spec import ReconstructionSpec, make_spec
from iso3d_jax.reconstruction.step import run_steps


def grid(bench: Bench) -> None:
    """The hash grid of the released numbers at points drawn evenly: the worst case for a cache.

    Encoding, its gradient to the grid, the field's normals, and the gradient of a loss on those
    (of second order, as the orientation loss is) to all parameters. On an NVIDIA GPU each twice: as
    XLA has it, and by the kernels that ISO3D_HASH_GRID=triton switches on.
    """
    spec = make_spec(bench.reconstruction()).field
    params = field.init(jax.random.key(0), spec)

    def encode(params, x):
        return look_up.encode(params["encoding"], (x + 1.0) / 2.0, spec.grid)

    def encode_gradient(params, x):
        return jax.grad(lambda p: jnp.sum(jnp.square(encode(p, x))))(params)["encoding"]

    def normals(params, x):
        return field.normal(params, x, spec)

    def second_order(params, x):
        return jax.grad(lambda p: jnp.sum(jnp.square(normals(p, x) - 0.5)))(params)

    parts = {
        "encode": encode, "encode and backward": encode_gradient, "normals": normals,
        "normals and backward": second_order,
    }  # fmt: skip
    for count in bench.sizes.points:
        x = jax.random.uniform(jax.random.key(1), (count, 3), minval=-1.0, maxval=1.0)
        traces = {
            f"{name}{' by Triton' * (how == 'triton')}, {count} points": functools.partial(
                _trace, how, f, params, x
            )
            for name, f in parts.items()
            for how in (("xla", "triton") if jax.default_backend() == "gpu" else ("xla",))
        }
        for name, program in compile_all(traces, bench.record.failed).items():
            with bench.record.trying(name):
                seconds = seconds_a_call(
                    lambda p=program, x=x: p.call(params, x), bench.sizes.repeats, limit=5.0
                )
                looked_up = count * spec.grid.levels * 8 * spec.grid.features * 4
                bench.record.row(
                    name, seconds=seconds, million_points_per_second=count / seconds / 1e6,
                    looked_up_gb_per_second=looked_up / seconds / 1e9,
                    program_gb=program.gb, compile_seconds=program.compile_seconds,
                )  # fmt: skip


def _trace(how: str, function, *args):
    """Traces with the look-up that is asked for, whatever the environment says."""
    before = os.environ.get(look_up.SWITCH)
    os.environ[look_up.SWITCH] = how
    try:
        # a function of its own: a trace is kept by the function that it is of
        return jax.jit(lambda *args: function(*args)).trace(*args)
    finally:
        os.environ.pop(look_up.SWITCH)
        if before is not None:
            os.environ[look_up.SWITCH] = before


def iteration(bench: Bench) -> None:
    """An iteration at each render resolution of the released recipe, and the share of its parts.

    The whole is the command's own program, several iterations a call; its parts are programs of
    their own and do not sum up to it. The denoiser's weights are random, so the scene is no object;
    shapes and costs hardly depend on that.
    """
    run_of = _recipe(bench)
    spec, denoiser, sizes = run_of.spec, run_of.denoiser, bench.sizes
    for phase, program in run_of.programs.items():
        name = run_of.names[phase]
        scene = state.start(spec)._replace(step=jnp.int32(start_of(spec, phase)))
        with bench.record.trying(f"{name}: whole"):
            key = jax.random.key(spec.seed)
            scene, _ = program.call(scene, denoiser, jnp.int32(sizes.warm_up), key)
            seconds, scene, record = _timed(program, scene, denoiser, key, sizes.iterations)
            bench.record.row(
                f"{name}: whole", **program.figures(seconds), iterations_per_second=1 / seconds,
                wanted_samples=float(np.max(record["wanted_samples"])),
            )  # fmt: skip
            _parts(bench, spec, denoiser, run_of.denoiser_spec, scene, phase, name, seconds)


class Recipe(NamedTuple):
    """The released recipe ready to run: by phase, the compiled iterations and their name."""

    spec: ReconstructionSpec
    denoiser: Denoiser
    denoiser_spec: DenoiserSpec
    names: dict[int, str]
    programs: dict[int, Program]


def _recipe(bench: Bench) -> Recipe:
    """The recipe with the bench's model, compiled by the part that comes first."""
    if "recipe" in bench.kept:
        return bench.kept["recipe"]
    config, model = bench.reconstruction(), bench.model
    spec = make_spec(config)
    picture = sampling.prepare_all(model, [load_picture(breakdown.EXAMPLE)])[0]
    denoiser, denoiser_spec = run.make_denoiser(model, picture)
    names = {
        i: f"{i + 1}: {groups * spec.views} renders of {resolution}"
        for i, (_, resolution, groups) in enumerate(spec.phases)
    }
    scene = state.start(spec)
    programs = compile_all(
        {
            phase: lambda phase=phase: run_steps.trace(
                scene, denoiser, jnp.int32(1), jax.random.key(spec.seed),
                capacity=spec.steps_per_call, spec=spec, denoiser_spec=denoiser_spec, phase=phase,
            )
            for phase in names
        },
        lambda phase, error: bench.record.failed(f"{names[phase]}: whole", error),
    )  # fmt: skip
    bench.kept["recipe"] = Recipe(spec, denoiser, denoiser_spec, names, programs)
    return bench.kept["recipe"]


def start_of(spec: ReconstructionSpec, phase: int) -> int:
    """The iteration at which a phase begins."""
    return spec.phases[phase - 1][0] if phase else 0


def _timed(program, scene, denoiser, key, count: int):
    """(seconds an iteration, the scene after, what was recorded): the median of three calls.

    None is begun once ten seconds are over.
    """
    times, record = [], {}
    while len(times) < 3 and sum(times) * count < 10.0:
        began = time.perf_counter()
        scene, record = jax.block_until_ready(program.call(scene, denoiser, jnp.int32(count), key))
        times.append((time.perf_counter() - began) / count)
    return float(np.median(times)), scene, record


def _parts(
    bench, spec, denoiser, denoiser_spec, scene, phase: int, name: str, whole: float
) -> None:
    parts = breakdown.programs(spec, denoiser, denoiser_spec, scene, phase)
    traces = {key: lambda f=f, x=x: jax.jit(f).trace(*x) for key, (f, x) in parts.items()}
    compiled = compile_all(traces, lambda key, error: bench.record.failed(f"{name}: {key}", error))
    seconds = {}
    for key, program in compiled.items():
        with bench.record.trying(f"{name}: {key}"):
            seconds[key] = seconds_a_call(
                lambda p=program, x=parts[key][1]: p.call(*x), bench.sizes.repeats, limit=2.0
            )
            figures = program.figures(seconds[key])
            bench.record.row(f"{name}: {key}", **figures)
    for key, value in breakdown.shares(seconds).items():
        bench.record.row(f"{name}: {key}", share_of_iteration=value / whole)


def many(bench: Bench) -> None:
    """As many iterations as the time that is left allows, half of them at each resolution.

    From the blob to where the time ends, then the same scene from the iteration at which the
    resolution changes: the mean of both rates says how long the whole recipe takes.
    """
    run_of = _recipe(bench)
    spec, denoiser, programs = run_of.spec, run_of.denoiser, run_of.programs
    missing = [name for phase, name in run_of.names.items() if phase not in programs]
    if missing:
        raise RuntimeError(f"no program for {missing[0]}: see the part that compiled it")
    scene, rates, key = state.start(spec), {}, jax.random.key(spec.seed)
    reserve = 0.0 if bench.tiny else 5.0
    for phase, (until, resolution, _) in enumerate(spec.phases):
        first = start_of(spec, phase)
        scene = scene._replace(step=jnp.int32(first))
        share = (bench.record.left() - reserve) / (len(spec.phases) - phase)
        began, done, record = time.perf_counter(), 0, {}
        calls = []
        while done < until - first:
            before = time.perf_counter()
            count = min(spec.steps_per_call, until - first - done)
            scene, record = programs[phase].call(scene, denoiser, jnp.int32(count), key)
            record = {name: np.asarray(value) for name, value in record.items()}
            done += count
            calls.append(count / (time.perf_counter() - before))
            if bench.tiny or time.perf_counter() - began + 1 / calls[-1] * count > share:
                break
        seconds = time.perf_counter() - began
        rates[phase] = done / seconds
        totals = record["total"][:count]
        bench.record.row(
            f"{phase + 1}: at {resolution}", iterations=done, seconds=seconds,
            iterations_per_second=done / seconds, slowest_call=min(calls), fastest_call=max(calls),
            wanted_samples=float(np.max(record["wanted_samples"])),
            not_finite_in_the_last_call=int(np.sum(~np.isfinite(totals))),
        )  # fmt: skip
    hours = sum(
        (until - start_of(spec, phase)) / rates[phase] / 3600
        for phase, (until, *_) in enumerate(spec.phases)
    )
    bench.record.row(f"all {spec.steps} iterations, from these rates", hours=hours)
