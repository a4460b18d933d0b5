"""Operations of the full-size step of stage 2, from its trace: no compiler, no accelerator.

    python benchmarks/step_flops.py --result benchmarks/results/step_flops.json

Matrix products, convolutions and attention of each branch, for one object; the state's bytes; and
for some machines the time that a batch's arithmetic takes at the chips' peak and what 20,000 such
steps would cost at the assumed prices. That bound knows nothing of memory, which
`benchmarks/compile_for.py` asks the compiler about.
"""

import argparse
import dataclasses
import math
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# Two devices: as on any mesh, and unlike on one processor, attention is then one operation.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
from measuring import report  # noqa: E402

from iso3d_jax.commands import config_files  # noqa: E402
from iso3d_jax.core import flops  # noqa: E402
from iso3d_jax.planning import compile_for  # noqa: E402
from iso3d_jax.planning.compile_for import parse_target  # noqa: E402
from iso3d_jax.training import loop, sharding  # noqa: E402
from iso3d_jax.training.optimizer import make_optimizer  # noqa: E402
from iso3d_jax.training.tasks import batches  # noqa: E402

TARGETS = ("v5e:4x4", "v5p:4x4x4", "v6e:16x16", "h100:8", "a100:32")
OBJECTS = 2  # of the traced batch


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/stage2.py")
    parser.add_argument("--batch_size", type=int, default=1024, help="MVDream's global batch")
    parser.add_argument("--fsdp", type=int, default=16, help="for what is replicated")
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    config = config_files.load_config(args.config)
    cfg = dataclasses.replace(compile_for.settle(config), batch_size=OBJECTS)
    mesh = sharding.make_mesh(devices=jax.devices())
    task = compile_for.AbstractTask(cfg)
    tx = make_optimizer(cfg)
    state = loop.abstract_state(task, tx, cfg)
    shardings = sharding.state_shardings(state, mesh, task.sharding_rules)
    sizes = {"data": 1, "fsdp": args.fsdp, "tensor": 1}
    shapes = {path: leaf.shape for path, leaf in task.abstract_params.items()}
    replicated = [
        math.prod(shape)
        for path, shape in shapes.items()
        if not any(sharding.spec_for(path, shape, sizes, task.sharding_rules))
    ]
    result = {
        "command": "python " + " ".join(["benchmarks/step_flops.py", *sys.argv[1:]]),
        "remat": cfg.remat,
        "weights": sum(map(math.prod, shapes.values())),
        "weights_replicated": sum(replicated),
        "state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        "teraflops_an_object": {},
    }
    mean = 0.0
    for branch, share in batches.branch_shares(cfg).items():
        began = time.monotonic()
        batch = compile_for.abstract_batch(cfg, branch)
        with jax.set_mesh(mesh):
            traced = loop.trace_step(task, tx, cfg, shardings, mesh, state, batch)
        counted = flops.count(traced.jaxpr) * (1.0 / OBJECTS)
        mean += share * counted.executed
        result["teraflops_an_object"][branch] = {
            "share_of_steps": share,
            "executed": counted.executed / 1e12,
            "of_the_model": counted.useful / 1e12,
            "trace_seconds": time.monotonic() - began,
        }
    result["arithmetic_at_peak"] = {}
    for target in TARGETS:
        chip, _, count = parse_target(target)
        seconds = mean * args.batch_size / count / chip.flops
        result["arithmetic_at_peak"][target] = {
            "seconds_a_step": seconds,
            "objects_per_second": args.batch_size / seconds,
            "hours_for_20000_steps": seconds * 20_000 / 3600,
            "dollars_for_20000_steps": seconds * 20_000 / 3600 * count * chip.dollars_per_hour,
        }
    report(result, args.result)


if __name__ == "__main__":
    main()
