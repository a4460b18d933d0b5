"""How cost grows with size: an exponent for points, rays, views, batch, faces and texture.

    taskset -c 1 python benchmarks/growth.py --result benchmarks/results/growth_cpu.json

Each size is doubled five times, at the numbers of the shipped model and of the preset `tiny`. For
each the least of some calls' processor time, compiled before; the exponent is the slope of a line
through the logarithms, and of their last three points alone, where constant costs weigh least. n
log n has 1.07 to 1.10 at these sizes; what is above 1.15 is named as worse. Beside --result an SVG
of the same name is drawn.
"""

import argparse
import functools
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import trimesh  # noqa: E402
from measuring import machine, report  # noqa: E402

from iso3d_jax.commands import config_files  # noqa: E402
from iso3d_jax.geometry import camera_sets  # noqa: E402
from iso3d_jax.mesh import texture  # noqa: E402
from iso3d_jax.nerf import field, occupancy, render  # noqa: E402
from iso3d_jax.reconstruction.spec import ReconstructionSpec, make_spec  # noqa: E402
from iso3d_jax.weights.bundle import load_model  # noqa: E402

DOUBLINGS = 5
WORST = 1.15  # an exponent above it is worse than n log n, allowing for noise
Call = Callable[[], object]


def ready(function, *args) -> Call:
    """A call of a compiled program that waits for its end."""
    compiled = jax.jit(function).lower(*args).compile()
    return lambda: jax.block_until_ready(compiled(*args))


def points(count: int, spec: ReconstructionSpec) -> Call:
    """Density of so many points and its gradient to the field."""
    params = field.init(jax.random.key(0), spec.field)
    x = jax.random.uniform(jax.random.key(1), (count, 3), minval=-1.0, maxval=1.0)
    return ready(
        jax.grad(lambda params, x: jnp.sum(field.density(params, x, spec.field))), params, x
    )


def rays(count: int, spec: ReconstructionSpec) -> Call:
    """A render of so many rays and its gradient to the field, every cell near the middle filled."""
    params = field.init(jax.random.key(0), spec.field)
    side = math.isqrt(count)
    side = side if side * side == count else math.isqrt(count * 2)
    views = camera_sets.ring(1, 15.0, 40.0, 1.075, 0.0)
    origins, directions, _ = views.rays(side)
    n = spec.occupancy.resolution
    across = np.abs((np.arange(n) + 0.5) / n * 2 - 1) < 0.4
    filled = across[:, None, None] & across[None, :, None] & across[None, None, :]
    cells = occupancy.Grid(jnp.asarray(filled.reshape(-1)), jnp.float32(5.0))

    def loss(params, origins, directions):
        image, *_ = render.render(
            jax.random.key(2), params, origins, directions, cells, spec.rays, spec.field
        )
        return jnp.sum(image.rgb)

    return ready(jax.grad(loss), params, origins[:count], directions[:count])


def denoise(batch: int, views: int) -> Call:
    """One look of the shipped denoiser at so many objects of so many views."""
    model = shipped()
    config, unet = model.config, model.unet
    side = config.latent_size
    return ready(
        lambda unet, *inputs: unet(*inputs),
        unet,
        jnp.ones((batch, views, side, side, config.latent_channels)),
        jnp.full((batch, views), 500),
        jnp.ones((batch, 1, config.context_dim)),
        jnp.ones((batch, views, 16)),
    )


@functools.lru_cache(1)
def shipped():
    """The model of the package."""
    return load_model(None, networks=("unet",))


def bumpy(faces: int) -> trimesh.Trimesh:
    """A closed surface of about so many triangles that does not unwrap in one piece."""
    across = max(4, round(math.sqrt(faces / 4)))
    mesh = trimesh.creation.uv_sphere(radius=1.0, count=[across, round(faces / 2 / across)])
    x, y, z = mesh.vertices.T
    bumps = 1.0 + 0.1 * np.sin(7 * x) * np.cos(6 * y) + 0.1 * np.sin(5 * z + 3 * x)
    mesh.vertices = 0.6 * mesh.vertices * bumps[:, None]
    return mesh


def bake(faces: int, texels: int) -> Call:
    """Unwrapping a mesh and filling its texture by a formula, so that no field takes part."""
    mesh, side = bumpy(faces), round(math.sqrt(texels))

    def colour(x, normal):
        del normal
        return (0.5 + 0.4 * np.sin(9 * x)).astype(np.float32)

    return lambda: texture.bake(mesh, colour, side)


def measured(make: Callable[[int], Call], first: int, repeats: int) -> dict:
    """Seconds at each size and the two exponents."""
    sizes = [first << k for k in range(DOUBLINGS + 1)]
    seconds = []
    for size in sizes:
        call = make(size)
        call()
        times = []
        for _ in range(repeats):
            began = time.process_time()
            call()
            times.append(time.process_time() - began)
        seconds.append(min(times))
    along, up = np.log2(sizes), np.log2(seconds)
    last = float(np.polyfit(along[-3:], up[-3:], 1)[0])
    return {
        "sizes": sizes,
        "seconds": [round(value, 5) for value in seconds],
        "exponent": round(float(np.polyfit(along, up, 1)[0]), 2),
        "exponent_of_the_last_three": round(last, 2),
        "worse_than_n_log_n": last > WORST,
    }


def chart(rows: dict[str, dict]) -> str:
    """Time over size, both as multiples of the smallest and in doublings, as SVG; y = x dashed."""
    colours = ("#1f5fa8", "#c8541a", "#2c8a4b", "#8a3fa0", "#7a6a1f", "#b02a50")
    high = max(6.0, *(math.log2(max(r["seconds"]) / r["seconds"][0]) for r in rows.values()))

    def place(x, y):
        return f"{60 + 80 * x:.1f},{330 - 290 * y / high:.1f}"

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 380" font-family="sans-serif" '
        'font-size="12"><rect width="640" height="380" fill="#fff"/>',
        f'<polyline points="{place(0, 0)} {place(5, 5)}" fill="none" stroke="#999" '
        'stroke-dasharray="4 4"/>',
    ]
    for k in range(DOUBLINGS + 1):
        x, y = place(k, 0).split(",")
        parts.append(f'<text x="{x}" y="350" text-anchor="middle">{2**k}×</text>')
        _, y = place(0, k).split(",")
        parts.append(f'<text x="50" y="{float(y) + 4:.1f}" text-anchor="end">{2**k}×</text>')
    parts.append('<text x="260" y="372" text-anchor="middle">size</text>')
    parts.append('<text x="12" y="28">time</text>')
    for number, (name, row) in enumerate(rows.items()):
        colour = colours[number % len(colours)]
        line = " ".join(
            place(k, math.log2(value / row["seconds"][0])) for k, value in enumerate(row["seconds"])
        )
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="480" y="{60 + 20 * number}" fill="{colour}">{name}: '
            f"{row['exponent_of_the_last_three']}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    spec = make_spec(config_files.load_config(str(ROOT / "configs" / "reconstruct.py") + ":tiny"))
    ways: dict[str, tuple[Callable[[int], Call], int]] = {
        "points": (functools.partial(points, spec=spec), 8192),
        "rays": (functools.partial(rays, spec=spec), 512),
        "views": (lambda n: denoise(1, n), 2),
        "batch": (lambda n: denoise(n, 4), 1),
        "faces": (lambda n: bake(n, 512**2), 500),
        "texels": (lambda n: bake(2000, n), 128**2),
    }
    rows = {}
    for name, (make, first) in ways.items():
        rows[name] = measured(make, first, args.repeats)
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    result = {
        "command": f"python benchmarks/growth.py --repeats {args.repeats}",
        "machine": machine(),
        "load_average_at_start": os.getloadavg()[0],
        "jax": jax.__version__,
        "clock": "processor time, one thread",
        "growth": rows,
    }
    report(result, args.result)
    if args.result:
        args.result.with_suffix(".svg").write_text(chart(rows))


if __name__ == "__main__":
    main()
