"""The hash grid on a CPU: the field's look-up, the plain form and eager PyTorch, in one run.

    taskset -c 1 python benchmarks/hash_grid.py --result benchmarks/results/hash_grid_cpu.json

Points drawn evenly over the scene, the released recipe's grid (16 levels, two features, 2^19
entries). Forward; forward and backward to the table; and normals with their gradient to the table,
which is of second order. Calls alternate, one of each in a round, all on one thread; figures are
medians of processor time, which other jobs on the machine lengthen by what they take of the cache
alone. Page faults are part of it: what a program writes to new memory costs twice.
"""

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from measuring import machine, report  # noqa: E402

from iso3d_jax.nerf import hash_grid, look_up  # noqa: E402
from iso3d_jax.nerf.hash_grid import CORNERS, PRIMES, HashGridSpec  # noqa: E402


def plain(grid, x, spec: HashGridSpec):
    """The encoding as `hash_grid` defines it, [D, N]."""
    return hash_grid.interpolate(hash_grid.gather(grid, x, spec), x, spec)


def ours(grid, x, spec: HashGridSpec):
    """The encoding as the field reads it, [D, N]."""
    return look_up.look_up(grid, x, spec)[0]


def jax_calls(find, spec: HashGridSpec, grid, x, cotangent) -> dict:
    """Compiled calls by name; the seconds of compiling them are under `compile`."""

    def loss(grid, x):
        return jnp.sum(find(grid, x, spec) * cotangent)

    def slopes(grid, x):
        return jnp.sum(jnp.square(jax.grad(loss, 1)(grid, x)))

    programs = {
        "forward": lambda grid, x: find(grid, x, spec),
        "forward and backward": jax.value_and_grad(loss),
        "second order": jax.grad(slopes),
    }
    calls = {}
    for name, program in programs.items():
        began = time.process_time()
        compiled = jax.jit(program).lower(grid, x).compile()
        seconds = time.process_time() - began
        calls[name] = (
            lambda compiled=compiled: jax.block_until_ready(compiled(grid, x)),
            seconds,
        )
    return calls


def torch_calls(spec: HashGridSpec, grid, x, cotangent) -> dict:
    """The same in eager PyTorch: an embedding a level, corners one after the other."""
    import torch

    torch.set_num_threads(1)
    tables = [torch.tensor(np.asarray(level)).requires_grad_() for level in grid]
    points, share = torch.tensor(np.asarray(x)), torch.tensor(np.asarray(cotangent).T.copy())

    def encode():
        parts = []
        for level, table in zip(spec.table, tables, strict=True):
            position = points * level.scale + 0.5
            lower = torch.floor(position)
            upper, cell = position - lower, lower.long()
            total = torch.zeros(len(points), spec.features)
            for corner in CORNERS:
                at = [cell[:, axis] + corner[axis] for axis in range(3)]
                if level.hashed:
                    mixed = [(a * prime) & 0xFFFFFFFF for a, prime in zip(at, PRIMES, strict=True)]
                    index = (mixed[0] ^ mixed[1] ^ mixed[2]) & (level.entries - 1)
                else:
                    index = at[0] + level.resolution * (at[1] + level.resolution * at[2])
                    index = index % level.entries
                weight = torch.ones(len(points))
                for axis in range(3):
                    side = upper[:, axis]
                    weight = weight * (side if corner[axis] else 1.0 - side)
                rows = torch.nn.functional.embedding(index, table)
                total = total + weight[:, None] * rows
            parts.append(total)
        return torch.cat(parts, -1)

    def forward():
        with torch.inference_mode():
            return encode()

    def backward():
        for table in tables:
            table.grad = None
        torch.sum(encode() * share).backward()
        return [table.grad for table in tables]

    return {"forward": (forward, 0.0), "forward and backward": (backward, 0.0)}


def measure(points: int, repeats: int, spec: HashGridSpec) -> dict:
    """Medians, ratios and the largest difference from the plain form."""
    grid = hash_grid.init(jax.random.key(0), spec)
    x = jax.random.uniform(jax.random.key(1), (points, 3))
    cotangent = jax.random.normal(jax.random.key(2), (spec.width, points))
    sides = {
        name: jax_calls(find, spec, grid, x, cotangent)
        for name, find in {"ours": ours, "plain": plain}.items()
    }
    try:
        sides["pytorch"] = torch_calls(spec, grid, x, cotangent)
    except ImportError:
        print("torch is not installed: only ours was measured", file=sys.stderr)
    result = {}
    for what in sides["ours"]:
        present = {name: calls[what] for name, calls in sides.items() if what in calls}
        outputs = {name: call() for name, (call, _) in present.items()}
        times: dict[str, list[float]] = {name: [] for name in present}
        for _ in range(repeats):
            for name, (call, _) in present.items():
                began = time.process_time()
                kept = call()
                times[name].append(time.process_time() - began)
                del kept
                time.sleep(0.02)  # memory that a program gives back is not the next one's time
        row = {name: float(np.median(each)) for name, each in times.items()}
        corners = points * spec.levels * len(CORNERS)
        result[what] = {
            "seconds": {name: round(value, 4) for name, value in row.items()},
            "ratio": {k: round(row["ours"] / v, 3) for k, v in row.items() if k != "ours"},
            "nanoseconds_a_corner": round(row["ours"] / corners * 1e9, 2),
            "compile_seconds": {
                name: round(seconds, 2) for name, (_, seconds) in present.items() if seconds
            },
            "largest_difference": difference(outputs),
        }
    return result


def difference(outputs: dict) -> dict[str, float]:
    """Of each from ours, over the largest number in ours."""
    flat = {}
    for name, value in outputs.items():
        leaves = value if name == "pytorch" and isinstance(value, list) else jax.tree.leaves(value)
        arrays = [np.asarray(leaf.detach() if name == "pytorch" else leaf) for leaf in leaves]
        if name == "pytorch" and len(arrays) == 1:
            arrays = [arrays[0].T]
        flat[name] = np.concatenate([a.ravel() for a in arrays if a.ndim])
    largest = np.max(np.abs(flat["ours"]))
    return {
        name: float(np.max(np.abs(value - flat["ours"])) / largest)
        for name, value in flat.items()
        if name != "ours"
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=262_144)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    result = {
        "command": "python benchmarks/hash_grid.py "
        + f"--points {args.points} --repeats {args.repeats}",
        "machine": machine(),
        "load_average_at_start": os.getloadavg()[0],
        "jax": jax.__version__,
        "clock": "processor time, one thread",
    }
    report(result | measure(args.points, args.repeats, HashGridSpec()), args.result)


if __name__ == "__main__":
    main()
