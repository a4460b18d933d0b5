"""Where the time of one iteration of score distillation goes.

    python benchmarks/reconstruction_breakdown.py --config configs/reconstruct.py:tiny

Each part is a program of its own, fed with what the iteration would feed it, on a scene after
`--warmup` iterations (the blob alone has few occupied cells). A backward pass is the time of
forward and backward less that of forward. The parts do not sum up to the whole iteration, in which
XLA fuses across them; that is measured too.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from measuring import machine, report  # noqa: E402

from iso3d_jax import sampling  # noqa: E402
from iso3d_jax.commands import config_files  # noqa: E402
from iso3d_jax.data.pictures import load_picture  # noqa: E402
from iso3d_jax.diffusion import classifier_free  # noqa: E402
from iso3d_jax.geometry import camera_sets  # noqa: E402
from iso3d_jax.geometry.cameras import camera_condition  # noqa: E402
from iso3d_jax.guidance import sds  # noqa: E402
from iso3d_jax.nerf import field, render  # noqa: E402
from iso3d_jax.reconstruction import losses, run, state, step  # noqa: E402
from iso3d_jax.reconstruction.spec import make_spec  # noqa: E402
from iso3d_jax.weights.bundle import load_model  # noqa: E402

EXAMPLE = ROOT / "iso3d_jax" / "data" / "examples" / "trash_can.png"


def seconds_of(program, *args, repeats: int) -> float:
    """Median time of a jitted call, compiled and called once before.

    On a CPU it is processor time of all threads, which other jobs on the machine hardly change.
    """
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    compiled = jax.jit(program).lower(*args).compile()
    jax.block_until_ready(compiled(*args))
    times = []
    for _ in range(repeats):
        begin = clock()
        jax.block_until_ready(compiled(*args))
        times.append(clock() - begin)
    return float(np.median(times))


def programs(spec, denoiser, denoiser_spec, scene, phase: int) -> dict[str, tuple]:
    """The parts of one iteration of a phase, each a function and what the iteration would give it.

    `render` and `encode` are forward passes; with `_and_backward` their gradients' whole programs.
    """
    _, resolution, groups = spec.phases[phase]
    rendering, shape = spec.rays, spec.field
    key = jax.random.key(0)
    views = camera_sets.sample_cameras(key, groups, spec.views, spec.camera)
    rays_o, rays_d, _ = views.rays(resolution)
    grid = state.make_grid(scene, spec)
    count = groups * spec.views

    def picture(params, rays_o, rays_d, grid):
        image, *_ = render.render(key, params, rays_o, rays_d, grid, rendering, shape)
        return image.rgb

    def picture_and_back(params, *rays):
        return jax.grad(lambda p: jnp.sum(jnp.square(picture(p, *rays))))(params)

    def latents(images, vae):
        return losses.encode(vae, images, key, denoiser_spec.scale_factor, spec.memory)

    def latents_and_back(images, vae):
        return jax.grad(lambda x: jnp.sum(jnp.square(latents(x, vae))))(images)

    def guide(z, unet, context, camera):
        t, alpha_bar = jnp.int32(500), denoiser.alphas_cumprod[500]
        return sds.score_distillation(
            unet, z, z, t, alpha_bar, classifier_free.without_and_with(context), camera,
            parameterization=denoiser_spec.parameterization, scale=spec.guidance.scale,
            rescale=spec.guidance.rescale, kind=spec.guidance.loss,
        )  # fmt: skip

    def normals_and_back(params, x):
        return jax.grad(lambda p: jnp.sum(jnp.square(field.normal(p, x, shape) - 0.5)))(params)

    def optimize(params, opt_state):
        updates, after = state.optimizer(spec).update(params, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), after

    def occupied_cells(scene):
        return step.update_occupancy(scene._replace(step=jnp.int32(0)), key, spec).occs

    images = jnp.full((count, denoiser_spec.resolution, denoiser_spec.resolution, 3), 0.5)
    z = jax.eval_shape(latents, images, denoiser.vae)
    z = jax.random.normal(key, (groups, spec.views, *z.shape[1:]))
    camera = camera_condition(
        views.elevation_deg, views.azimuth_deg, denoiser_spec.camera_encoding,
        fov_deg=views.fov_deg, distance=views.distance,
    )  # fmt: skip
    context = jnp.broadcast_to(denoiser.context, (groups, *denoiser.context.shape[1:]))
    points = jax.random.uniform(
        key, (round(spec.render.normals * rays_o.shape[0]), 3), minval=-0.5, maxval=0.5
    )
    rays = (scene.params, rays_o, rays_d, grid)
    return {
        "render": (picture, rays),
        "render_and_backward": (picture_and_back, rays),
        "encode": (latents, (images, denoiser.vae)),
        "encode_and_backward": (latents_and_back, (images, denoiser.vae)),
        "unet_with_guidance": (guide, (z, denoiser.unet, context, camera)),
        "orientation_loss_and_backward": (normals_and_back, (scene.params, points)),
        "occupancy_all_cells": (occupied_cells, (scene,)),
        "optimizer": (optimize, (scene.params, scene.opt_state)),
    }


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of each part, backward passes without their forward ones."""
    parts = {}
    for name, value in seconds.items():
        forward = name.removesuffix("_and_backward")
        if forward != name and forward in seconds:
            parts[f"{forward}_backward"] = value - seconds[forward]
        else:
            parts[name] = value
    return parts


def measure(spec, denoiser, denoiser_spec, scene, phase: int, repeats: int) -> dict[str, float]:
    """Seconds of each part of one iteration of a phase, and of the whole."""
    seconds = {
        name: seconds_of(program, *args, repeats=repeats)
        for name, (program, args) in programs(spec, denoiser, denoiser_spec, scene, phase).items()
    }
    whole = functools.partial(step.train_step, spec=spec, denoiser_spec=denoiser_spec, phase=phase)
    whole_seconds = seconds_of(whole, scene, denoiser, jax.random.key(spec.seed), repeats=repeats)
    return shares(seconds) | {"whole_iteration": whole_seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/reconstruct.py:tiny")
    parser.add_argument("--model", help="folder of a model; the shipped one if left out")
    parser.add_argument("--run", help="folder of a reconstruction whose scene is taken")
    parser.add_argument("--phase", type=int, default=0, help="counted from 0")
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    config = config_files.load_config(args.config)
    spec = make_spec(config)
    model = load_model(args.model)
    (picture,) = sampling.prepare_all(model, [load_picture(EXAMPLE)])
    denoiser, denoiser_spec = run.make_denoiser(model, picture)
    scene = state.load(args.run, spec) if args.run else state.start(spec)
    if not args.run and args.warmup:
        scene, _ = step.run_steps(
            scene, denoiser, jnp.int32(args.warmup), jax.random.key(spec.seed),
            capacity=args.warmup, spec=spec, denoiser_spec=denoiser_spec, phase=args.phase,
        )  # fmt: skip
    seconds = measure(spec, denoiser, denoiser_spec, scene, args.phase, args.repeats)
    result = {
        "command": "python benchmarks/reconstruction_breakdown.py " + " ".join(sys.argv[1:]),
        "device": jax.devices()[0].device_kind,
        "processor": machine(),
        "clock": "processor time" if jax.default_backend() == "cpu" else "wall clock",
        "config": args.config,
        "renders": f"{spec.phases[args.phase][2] * spec.views} of {spec.phases[args.phase][1]}^2",
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
    }
    report(result, args.result)


if __name__ == "__main__":
    main()
