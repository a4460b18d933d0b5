"""Device memory of sampling at full size, without running it.

    python benchmarks/sampling_memory.py --result benchmarks/results/sampling_memory.json

Compiles the three programs of `iso3d_jax.sample` (embedding, 50 DDIM steps of four views with
guidance, decoding) for abstract weights and prints `memory_analysis()`. The networks compute in
bfloat16; `weights` is the type in which they are held. With the package libtpu, `--tpu` compiles
for a TPU v5e instead of this machine.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402
from measuring import report  # noqa: E402

from iso3d_jax import sampling  # noqa: E402
from iso3d_jax.planning import absent  # noqa: E402
from iso3d_jax.planning.programs import abstract_module  # noqa: E402
from iso3d_jax.training import sharding  # noqa: E402
from iso3d_jax.weights.model_spec import ModelSpec  # noqa: E402


def tpu_mesh():
    """One chip of a TPU v5e; no such chip is needed."""
    return sharding.make_mesh(devices=absent.tpus("v5e:2x2")[:1])


def abstract(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def analyse(lowered) -> dict:
    begin = time.monotonic()
    memory = lowered.compile().memory_analysis()
    sizes = {
        "weights_and_inputs_gb": memory.argument_size_in_bytes,
        "temporary_gb": memory.temp_size_in_bytes,
        "outputs_gb": memory.output_size_in_bytes,
    }
    return {key: round(value / 1e9, 2) for key, value in sizes.items()} | {
        "compile_seconds": round(time.monotonic() - begin, 1)
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tpu", action="store_true")
    parser.add_argument("--weights", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    mesh = tpu_mesh() if args.tpu else None
    place = NamedSharding(mesh, PartitionSpec()) if mesh else None
    weights = jnp.dtype(args.weights)
    unet, vae, clip = (
        abstract_module(name, ModelSpec.read({name: {}}), jnp.bfloat16, weights, place)
        for name in ("unet", "vae", "clip")
    )
    scalar, f32 = abstract((), jnp.float32, place), jnp.float32
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = abstract(key.shape, key.dtype, place)
    result = {
        "command": f"python benchmarks/sampling_memory.py --weights {args.weights}"
        + " --tpu" * args.tpu,
        "compiled_for": "TPU v5e" if args.tpu else jax.devices()[0].device_kind,
        "weights": args.weights,
    }
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        lowered = {
            "sample": lambda: sampling.sample_latents.lower(
                unet, abstract((1, 1, 1024), f32, place), abstract((4, 16), f32, place),
                abstract((1000,), f32, place), key, scalar, scalar,
                latent_shape=(32, 32, 4), steps=50, parameterization="eps",
            ),
            "decode": lambda: sampling.decode_views.lower(
                vae, abstract((1, 4, 32, 32, 4), f32, place)
            ),
            "embed": lambda: sampling._embed.lower(clip, abstract((1, 256, 256, 3), f32, place)),
        }  # fmt: skip
        for name, lower in lowered.items():
            result[name] = analyse(lower())
            print(name, result[name], file=sys.stderr, flush=True)
    programs = [result[name] for name in ("embed", "sample", "decode")]
    held = sum(p["weights_and_inputs_gb"] for p in programs)
    result["all_weights_and_the_largest_temporary_gb"] = round(
        held + max(p["temporary_gb"] for p in programs), 2
    )
    report(result, args.result)


if __name__ == "__main__":
    main()
