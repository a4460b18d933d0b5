"""What the benchmarks share: the report's way out, the machine's name, networks without weights."""

import json
import os
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
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


def tpu_chip():
    """One chip of a TPU v5e to compile for; needs libtpu, but no such chip."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]


def placed(tree, sharding):
    """Shapes (or arrays) as abstract arguments for a device; None is this machine's."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x), sharding=sharding), tree
    )


def abstract_network(name: str, config: ConfigDict, dtype, held, sharding=None):
    """A network that computes in `dtype`, its weights abstract and held as `load_model` does."""
    graphdef, shapes = bundle.abstract_network(name, config, dtype)
    weights = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, bundle.param_dtype_for(path, held), sharding=sharding
        )
        for path, leaf in shapes.items()
    }
    return merge_params(graphdef, weights)
