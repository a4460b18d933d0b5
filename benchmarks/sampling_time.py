"""Sampling four views of one picture from end to end: first and second call.

    python benchmarks/sampling_time.py --result benchmarks/results/sampling_time_tiny.json
    python benchmarks/sampling_time.py --full --dtype bfloat16        # on a GPU
    python benchmarks/sampling_time.py --full --steps 2               # on a CPU, with patience

From RGBA pixels to decoded views, guidance included. The first call compiles (or reads the
compilation cache, if ISO3D_JAX's is warm), the second has another picture of the same size. With
--full the networks have the released size and random weights.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from measuring import machine, random_model, report  # noqa: E402

from iso3d_jax import sampling  # noqa: E402
from iso3d_jax.presets import common  # noqa: E402
from iso3d_jax.weights import bundle  # noqa: E402
from iso3d_jax.weights.model_spec import ModelSpec  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    dtype = jnp.dtype(args.dtype)
    load = time.perf_counter()
    model = (
        random_model(ModelSpec.read(common.full_model().to_dict()), dtype)
        if args.full
        else bundle.load_model(None, dtype, param_dtype=dtype)
    )
    load = time.perf_counter() - load
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(2):
        picture = rng.integers(0, 256, (256, 256, 4), np.uint8)
        begin = time.perf_counter()
        sampling.sample_views(model, [picture], steps=args.steps)
        seconds.append(time.perf_counter() - begin)
    result = {
        "command": f"python benchmarks/sampling_time.py --steps {args.steps} --dtype {args.dtype}"
        + " --full" * args.full,
        "device": jax.devices()[0].device_kind,
        "machine": machine(),
        "jax": jax.__version__,
        "load_average_at_end": os.getloadavg()[0],
        "seconds_to_load": round(load, 2),
        "first_call_seconds": round(seconds[0], 2),
        "second_call_seconds": round(seconds[1], 2),
        "second_call_seconds_a_step": round(seconds[1] / args.steps, 4),
    }
    report(result, args.result)


if __name__ == "__main__":
    main()
