"""What the benchmarks share: the report's way out, the machine's name, networks without weights or
with random ones, programs compiled and timed."""

import concurrent.futures
import dataclasses
import functools
import json
import math
import os
import platform
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iso3d_jax.core import chips, flops
from iso3d_jax.models.params import merge_params
from iso3d_jax.models.registry import SECTIONS
from iso3d_jax.weights import bundle
from iso3d_jax.weights.model_spec import ModelSpec


def report(result: dict, path: Path | None) -> None:
    """Prints a result as JSON, and writes it where a path is given."""
    text = json.dumps(result, indent=2)
    print(text)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def machine() -> dict:
    """The processor, how many the machine has, and how many this process may use."""
    return {
        "cpus": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "processor": processor(),
    }


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def placed(tree, sharding):
    """Shapes (or arrays) as abstract arguments for a device; None is this machine's."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=sharding), tree
    )


@functools.lru_cache(1)
def _pool(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size, np.float32)


def random_weights(shapes: dict) -> dict[str, np.ndarray]:
    """float32 weights for a network's shapes, made fast and always the same: no layer is silent.

    Matrices and kernels are normal over the square root of what enters an output, so that signals
    keep their size from layer to layer; norms scale by about one.

    Args:
      shapes: by path, from `bundle.abstract_network`.
    """
    largest = max(math.prod(leaf.shape) for leaf in shapes.values())
    pool = _pool(1 << (2 * largest - 1).bit_length())

    def draw(path, shape):
        size = math.prod(shape)
        offset = zlib.crc32(path.encode()) % (pool.size - size + 1)
        raw = pool[offset : offset + size].reshape(shape)
        if path.endswith("scale"):
            return np.float32(1.0) + np.float32(0.05) * raw
        return raw * np.float32(0.02 if len(shape) < 2 else math.prod(shape[:-1]) ** -0.5)

    return {path: draw(path, leaf.shape) for path, leaf in shapes.items()}


def random_network(name: str, config: ModelSpec, dtype):
    """A network with random weights that computes in `dtype` and holds them as `load_model` would.

    They are rounded on the device: numpy takes half a minute for what it rounds in none.
    """
    graphdef, shapes = bundle.abstract_network(name, config, dtype)
    weights = random_weights(shapes)
    return merge_params(
        graphdef,
        {k: jnp.asarray(w).astype(bundle.param_dtype_for(k, dtype)) for k, w in weights.items()},
    )


def random_model(settings: ModelSpec, dtype) -> bundle.Model:
    """A whole model with random weights; `settings` as `bundle.make_config` takes them."""
    config = bundle.make_config(settings)
    networks = {name: random_network(name, config, dtype) for name in SECTIONS}
    return bundle.Model(config=config, **networks)


def seconds_a_call(call: Callable[[], Any], repeats: int = 5, limit: float = 10.0) -> float:
    """Median time of a call by the wall clock, after two that are not counted.

    Calls too short for the clock are timed several at once, as the device queues them. After
    `limit` seconds no further repeat is begun.
    """
    jax.block_until_ready(call())
    began = time.perf_counter()
    jax.block_until_ready(call())
    at_once = min(200, max(1, math.ceil(0.02 / (time.perf_counter() - began))))
    times, first = [], time.perf_counter()
    while len(times) < repeats and (not times or time.perf_counter() - first < limit):
        began = time.perf_counter()
        for _ in range(at_once):
            out = call()
        jax.block_until_ready(out)
        times.append((time.perf_counter() - began) / at_once)
    return float(np.median(times))


@dataclasses.dataclass
class Program:
    """A compiled program; call it with the arguments that it was traced for."""

    call: Callable
    flops: float  # what the mathematics asks for, see core/flops.py
    compile_seconds: float
    gb: float  # arguments, temporaries, and outputs that take no argument's place

    def figures(self, seconds: float) -> dict:
        """What is worth noting of a program that takes so long."""
        rate = self.flops / seconds
        peak = chips.find_peak(jax.devices()[0].device_kind)
        return {
            "seconds": seconds,
            "tflop": self.flops / 1e12,
            "tflops_per_second": rate / 1e12,
            **({"share_of_peak": rate / peak} if peak else {}),
            "program_gb": self.gb,
            "compile_seconds": self.compile_seconds,
        }


def compile_traced(traced) -> Program:
    """Lowers and compiles what `jax.jit(f).trace(...)` gave; tracing is not in the time."""
    began = time.perf_counter()
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(compiled, flops.count(traced.jaxpr).useful, seconds, (used + new) / 1e9)


def compile_all(
    traces: dict[str, Callable], failed: Callable[[str, Exception], None]
) -> dict[str, Program]:
    """Compiles several programs at once, one for two processors and at most eight.

    Args:
      traces: by name, functions without arguments that trace: `lambda: jax.jit(f).trace(x)`.
      failed: told of each that cannot be traced or compiled; the others go on.
    """
    traced, programs = {}, {}
    for name, trace in traces.items():
        try:
            traced[name] = trace()
        except Exception as error:
            failed(name, error)
    workers = min(8, max(1, (machine()["cpus_allowed"] or os.cpu_count() or 1) // 2))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = {name: pool.submit(compile_traced, each) for name, each in traced.items()}
        for name, future in futures.items():
            try:
                programs[name] = future.result()
            except Exception as error:
                failed(name, error)
    return programs
