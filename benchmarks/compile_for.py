"""The full-size step of stage 2, compiled for machines that are not here, as JSON.

    python benchmarks/compile_for.py v5e:4x4 --fsdp 16 \\
        --result benchmarks/results/compile_for_v5e_16.json

The numbers behind what `python -m iso3d_jax.train --compile_for` prints. Needs libtpu for TPUs,
jax's CUDA plugin for NVIDIA's cards, and minutes for each branch; `--branches 2-b` compiles one,
and adds it to a result of the same machine.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from iso3d_jax.commands import config_files  # noqa: E402
from iso3d_jax.core.errors import UserError  # noqa: E402
from iso3d_jax.planning import absent, compile_for  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", help="such as v5e:4x4, v5p:4x4x4, v6e:16x16, h100:8")
    parser.add_argument("--config", default="configs/stage2.py")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--remat", default="blocks")
    parser.add_argument("--branches", default="2-a,2-b")
    parser.add_argument(
        "--effort", type=float, default=0.0, help="-1 to 1: how long the compiler tries for speed"
    )
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    compile_for.prepare_environment(args.target)
    import jax
    from measuring import report

    jax.config.update("jax_exec_time_optimization_effort", args.effort)
    cfg = config_files.load_config(args.config)
    cfg.batch_size, cfg.accumulate, cfg.remat = args.batch_size, args.accumulate, args.remat
    cfg.mesh.fsdp = args.fsdp
    spec = compile_for.settle(cfg)
    chip, topology, count = compile_for.parse_target(args.target)
    devices = absent.devices(chip, topology, count)
    result = {
        "jax": jax.__version__,
        "compiler_effort": args.effort,
        "chips": count,
        "objects_a_chip": args.batch_size // count,
        "price_assumed": chip.dollars_per_hour,
        "gib_of_a_chip": chip.memory / 2**30,
        "branches": {},
    }
    commands = ["python " + " ".join(["benchmarks/compile_for.py", *sys.argv[1:]])]
    if args.result and args.result.exists():
        earlier = json.loads(args.result.read_text())
        if all(earlier.get(k) == v for k, v in result.items() if k != "branches"):
            result["branches"] = earlier["branches"]
            commands = [c for c in earlier["commands"] if c not in commands] + commands
    result["commands"] = commands
    for branch in args.branches.split(","):
        began = time.monotonic()
        try:
            program = compile_for.compile_branch(spec, devices, branch)
        except compile_for.DoesNotFit as error:
            result["branches"][branch] = {"does_not_fit": str(error)}
            report(result, args.result)
            continue
        times = program.seconds(chip)
        bound = max(times.values())
        result["branches"][branch] = dataclasses.asdict(program) | {
            "gib": program.memory / 2**30,
            "fits": program.memory <= chip.memory,
            "seconds": times,
            "objects_per_second": args.batch_size / bound,
            "model_tflops_per_second_a_chip": program.model_flops / bound / 1e12,
            "compile_seconds": time.monotonic() - began,
        }
        report(result, args.result)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
