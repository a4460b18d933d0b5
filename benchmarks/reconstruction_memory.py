"""Device memory of a reconstruction's iterations, without running them.

    python benchmarks/reconstruction_memory.py --result reconstruction_memory.json

Compiles the programs of `iso3d_jax.reconstruct` (both resolutions of a preset) for abstract weights
of the released size and prints `memory_analysis()`, once as configured and once with
`config.memory=low`. The networks are held in bfloat16 and compute in it; the scene is float32.
`--networks shipped` takes the sizes of the model in the package, for a quick look with
`--config configs/reconstruct.py:tiny`. With the package libtpu, `--tpu` compiles for a TPU v5e
instead of this machine, whose processor has no bfloat16 and holds what it computes in float32; with
jax's CUDA plugin `--cuda` compiles for an H100.
"""

import argparse
import contextlib
import functools
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from measuring import placed, report  # noqa: E402

from iso3d_jax.commands import config_files  # noqa: E402
from iso3d_jax.planning import absent, lowering  # noqa: E402
from iso3d_jax.planning.programs import abstract_module  # noqa: E402
from iso3d_jax.reconstruction import state  # noqa: E402
from iso3d_jax.reconstruction.losses import Denoiser, DenoiserSpec  # noqa: E402
from iso3d_jax.reconstruction.spec import ReconstructionSpec, make_spec  # noqa: E402
from iso3d_jax.reconstruction.step import run_steps  # noqa: E402
from iso3d_jax.weights import bundle  # noqa: E402
from iso3d_jax.weights.model_spec import ModelSpec  # noqa: E402


def abstract_denoiser(
    networks: str, place=None, dtype=jnp.bfloat16
) -> tuple[Denoiser, DenoiserSpec]:
    """Networks without weights, of the released size or of the shipped model's."""
    if networks == "released":
        config = ModelSpec.read({"unet": {}, "vae": {}})
        spec, width = DenoiserSpec(256, 0.18215, "eps", "isotropic3d"), 1024
    else:
        config = bundle.load_config(None)
        spec = DenoiserSpec(
            config.resolution, config.scale_factor, config.parameterization, config.camera_encoding
        )
        width = config.context_dim

    context = jax.ShapeDtypeStruct((1, 1, width), jnp.float32, sharding=place)
    schedule = jax.ShapeDtypeStruct((1000,), jnp.float32, sharding=place)
    unet, vae = (abstract_module(name, config, dtype, dtype, place) for name in ("unet", "vae"))
    return Denoiser(unet, vae, context, schedule), spec


def analyse(
    spec: ReconstructionSpec,
    denoiser: Denoiser,
    denoiser_spec: DenoiserSpec,
    phase: int,
    place=None,
    platform: str = "cpu",
) -> dict:
    """Gigabytes of one phase's program; donated inputs and their outputs are counted once.

    Args:
      platform: of `place`.
    """
    scene = placed(jax.eval_shape(lambda: state.start(spec)), place)
    begin = time.monotonic()
    lowered = run_steps.lower(
        scene, denoiser, jax.ShapeDtypeStruct((), jnp.int32, sharding=place),
        placed(jax.eval_shape(lambda: jax.random.key(0)), place),
        capacity=spec.steps_per_call, spec=spec, denoiser_spec=denoiser_spec, phase=phase,
    )  # fmt: skip
    memory = absent.compile_lowered(lowered, platform).memory_analysis()
    sizes = {
        "weights_and_scene_gb": memory.argument_size_in_bytes,
        "temporary_gb": memory.temp_size_in_bytes,
        "outputs_not_in_place_gb": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }
    sizes["peak_gb"] = sum(sizes.values())
    return {name: round(value / 1e9, 3) for name, value in sizes.items()} | {
        "compile_seconds": round(time.monotonic() - begin, 1)
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/reconstruct.py:isotropic3d")
    parser.add_argument("--networks", choices=["released", "shipped"], default="released")
    parser.add_argument("--memory", choices=["normal", "low"], help="only one of the two")
    parser.add_argument("--phase", type=int, help="only this phase, counted from 0")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--tpu", action="store_true", help="for a TPU v5e; needs libtpu, no TPU")
    target.add_argument("--cuda", action="store_true", help="for an H100; needs jax's CUDA plugin")
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    place, tracing, platform = None, contextlib.nullcontext, "cpu"
    if args.tpu or args.cuda:
        found = absent.tpus("v5e:2x2") if args.tpu else absent.gpus("h100")
        place = jax.sharding.SingleDeviceSharding(found[0])
        platform = "tpu" if args.tpu else "gpu"
    if args.cuda:
        tracing = functools.partial(lowering.tracing_for, lowering.TARGETS["h100"])
    denoiser, denoiser_spec = abstract_denoiser(args.networks, place)
    cfg = config_files.load_config(args.config)
    result = {
        "command": "python benchmarks/reconstruction_memory.py " + " ".join(sys.argv[1:]),
        "compiled_for": next(iter(place.device_set if place else jax.devices())).device_kind,
        "config": args.config,
        "networks": args.networks,
        "programs": [],
    }
    for memory in [args.memory] if args.memory else ["normal", "low"]:
        cfg.memory = memory
        spec = make_spec(cfg)
        for phase, (_, resolution, groups) in enumerate(spec.phases):
            if args.phase not in (None, phase):
                continue
            program = {"resolution": resolution, "views": groups * spec.views, "memory": memory}
            with tracing():
                sizes = analyse(spec, denoiser, denoiser_spec, phase, place, platform)
            result["programs"].append(program | sizes)
            print(json.dumps(result["programs"][-1]), file=sys.stderr, flush=True)
    report(result, args.result)


if __name__ == "__main__":
    main()
