"""What the benchmarks share: the report's way out, the machine's name, networks without weights."""

import json
import os
import platform
from pathlib import Path

import jax
from ml_collections import ConfigDict

from iso3d_jax.models.params import merge_params
from iso3d_jax.weights import bundle


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


def abstract_network(name: str, config: ConfigDict, dtype, held, sharding=None):
    """A network that computes in `dtype`, its weights abstract and held as `load_model` does."""
    graphdef, shapes = bundle.abstract_network(name, config, dtype)
    weights = {
        path: jax.ShapeDtypeStruct(leaf.shape, bundle.held_as(path, held), sharding=sharding)
        for path, leaf in shapes.items()
    }
    return merge_params(graphdef, weights)
