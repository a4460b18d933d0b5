"""One evaluation of the full-size UNet, against diffusers' in PyTorch, in one run.

    python benchmarks/unet_forward.py --result benchmarks/results/unet_forward_cpu.json
    python benchmarks/unet_forward.py --dtype bfloat16     # on a GPU

Eight latents of 32 x 32: four views with guidance (B 2, V 4). diffusers' `UNet2DConditionModel`
has the same channels and batch, but attends within each picture; "jax, 2-D" is ours with B 8, V 1,
which computes the same as it. Weights are random. The rate of one large matrix product says what
the device gives. On a single CPU core (`taskset -c 1`) the clock is the processor's own time for
this process, which neighbours on the core do not lengthen; elsewhere it is the wall's.
"""

import argparse
import gc
import os
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import torch_unet  # noqa: E402
from measuring import machine, random_network, report  # noqa: E402

from iso3d_jax.core import flops  # noqa: E402
from iso3d_jax.models.unet import UNetConfig  # noqa: E402
from iso3d_jax.weights.model_spec import ModelSpec  # noqa: E402


def clock_kind() -> str:
    """Which clock `seconds_of` reads."""
    single = machine()["cpus_allowed"] == 1 and jax.default_backend() == "cpu"
    return "processor" if single else "wall"


def seconds_of(run, repeats: int) -> float:
    """Median time of a call, the first left out."""
    clock = time.process_time if clock_kind() == "processor" else time.perf_counter
    run()
    times = []
    for _ in range(repeats):
        begin = clock()
        run()
        times.append(clock() - begin)
    return float(np.median(times))


def matmul_rate(dtype, size: int) -> float:
    """FLOP/s of one product of two square matrices."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    return 2 * size**3 / seconds_of(lambda: product(a, a).block_until_ready(), 5)


def time_jax(dtype, repeats: int) -> dict:
    unet = random_network("unet", ModelSpec(unet=UNetConfig()), dtype)
    result = {}
    for name, (batch, views) in {"jax, 4 views jointly": (2, 4), "jax, 2-D": (8, 1)}.items():
        inputs = (
            jnp.ones((batch, views, 32, 32, 4)),
            jnp.full((batch, views), 500),
            jnp.ones((batch, 1, 1024)),
            jnp.ones((batch, views, 16)),
        )
        traced = jax.jit(lambda unet, *args: unet(*args)).trace(unet, *inputs)
        operations, compiled = flops.count(traced.jaxpr).useful, traced.lower().compile()
        memory = compiled.memory_analysis()
        seconds = seconds_of(lambda c=compiled, i=inputs: c(unet, *i).block_until_ready(), repeats)
        result[name] = {
            "seconds": round(seconds, 4),
            "tflop": round(operations / 1e12, 3),
            "tflops_per_second": round(operations / 1e12 / seconds, 3),
            "weights_gb": round(memory.argument_size_in_bytes / 1e9, 2),
            "temporary_gb": round(memory.temp_size_in_bytes / 1e9, 2),
        }
    return result


def time_torch(dtype: str, repeats: int) -> dict:
    import torch

    unet, device = torch_unet.network(UNetConfig(), 32, dtype)
    if device == "cuda":
        unet = torch.compile(unet)
    run = torch_unet.call(unet, UNetConfig(), 8, 32, dtype, device)
    seconds = seconds_of(run, repeats)
    return {"seconds": round(seconds, 4), "torch": torch.__version__, "device": device}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    backend = jax.default_backend()
    dtype = jnp.dtype(args.dtype)
    result = {
        "command": f"python benchmarks/unet_forward.py --dtype {args.dtype}"
        + f" --repeats {args.repeats}",
        "device": jax.devices()[0].device_kind,
        "machine": machine(),
        "jax": jax.__version__,
        "dtype": args.dtype,
        "clock": clock_kind(),
        "load_average_at_start": os.getloadavg()[0],
    }  # fmt: skip
    rate = matmul_rate(dtype, 4096 if backend == "cpu" else 8192)
    result["matmul_tflops_per_second"] = round(rate / 1e12, 3)
    result |= time_jax(dtype, args.repeats)
    gc.collect()
    for name in ("jax, 4 views jointly", "jax, 2-D"):
        share = result[name]["tflops_per_second"] * 1e12 / rate
        result[name]["share_of_matmul_rate"] = round(share, 3)
    try:
        result["diffusers in torch, 2-D"] = time_torch(args.dtype, args.repeats)
    except ImportError:
        print("torch is not installed: only ours was measured", file=sys.stderr)
    else:
        seconds = result["diffusers in torch, 2-D"]["seconds"]
        for name in ("jax, 4 views jointly", "jax, 2-D"):
            result[name]["time_over_torch"] = round(result[name]["seconds"] / seconds, 3)
    report(result, args.result)


if __name__ == "__main__":
    main()
