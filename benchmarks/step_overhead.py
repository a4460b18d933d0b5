"""What the training loop costs beside the compiled step that it runs.

    python benchmarks/step_overhead.py --result benchmarks/results/step_overhead_tiny.json

The loop draws batches, moves them, logs every ten steps and watches for bad ones; the bare step
runs again and again on one batch. Both run the same program, in turns, `--rounds` times;
checkpoints and pictures, which come every some hundred steps, are left out. On a CPU, processor
seconds of the whole process are compared beside the clock's: they do not see what else the machine
does.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
from measuring import machine, report  # noqa: E402

from iso3d_jax.commands import command_line, config_files  # noqa: E402
from iso3d_jax.training import loop, sharding  # noqa: E402
from iso3d_jax.training.optimizer import make_optimizer  # noqa: E402
from iso3d_jax.training.tasks import stages  # noqa: E402

WARM_UP = 10  # steps of each run that are not counted; a multiple of log_every


class TimedTask(stages.DenoiserTask):
    """Notes both clocks whenever the loop asks for a batch; shows and exports nothing."""

    def batch(self, step, rows):
        self.clocks[step] = clocks()
        return super().batch(step, rows)

    def preview(self, params):
        return None

    def export(self, params, folder):
        pass


def clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def bare_step(task, cfg, steps: int) -> np.ndarray:
    """Seconds a step, by both clocks, of the compiled step alone."""
    mesh, tx = sharding.make_mesh(dataclasses.asdict(cfg.mesh)), make_optimizer(cfg)
    abstract = loop.abstract_state(task, tx, cfg)
    shardings = sharding.state_shardings(abstract, mesh, task.sharding_rules)
    state = loop.new_state(task, tx, cfg, abstract, shardings)
    rows = sharding.local_rows(cfg.batch_size, mesh)
    batch = sharding.put_batch(stages.DenoiserTask.batch(task, 0, rows), cfg.batch_size, mesh)
    with jax.set_mesh(mesh):
        compiled = loop.trace_step(task, tx, cfg, shardings, mesh, state, batch).lower().compile()
    state, _ = jax.block_until_ready(compiled(state, batch))
    before = clocks()
    for _ in range(steps):
        state, _ = compiled(state, batch)
    jax.block_until_ready(state)
    return (clocks() - before) / steps


def loop_step(task, cfg, steps: int) -> np.ndarray:
    """Seconds a step, by both clocks, of the loop."""
    task.clocks = {}
    with tempfile.TemporaryDirectory() as workdir:
        loop.fit(task, workdir)
    return (task.clocks[WARM_UP + steps] - task.clocks[WARM_UP]) / steps


def compared(bare: list, whole: list, clock: int) -> dict:
    """The fastest round of each by one of the clocks, since other jobs only add; and all rounds."""
    rounds = {name: [float(x[clock]) for x in r] for name, r in (("bare", bare), ("loop", whole))}
    best = {name: min(values) for name, values in rounds.items()}
    return {**best, "ratio": best["loop"] / best["bare"], "rounds": rounds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/stage2.py:tiny")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20, help="counted steps, a multiple of 10")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    command_line.use_compilation_cache()
    cfg = config_files.load_config(args.config)
    cfg.batch_size, cfg.data_variants = args.batch_size, 1
    cfg.ablation = "no_stage1"  # weights do not matter here
    cfg.init_from, cfg.single_view_share, cfg.reference_dropout = "", 0.0, 0.0  # one program
    cfg.steps = WARM_UP + args.steps + 1
    cfg.checkpoint_every = cfg.sample_every = 10**9
    load = os.getloadavg()[0]
    task = TimedTask.from_config(cfg)
    cfg = task.cfg
    bare, whole = [], []
    for _ in range(args.rounds):
        bare.append(bare_step(task, cfg, args.steps))
        whole.append(loop_step(task, cfg, args.steps))
    result = {
        "command": f"python benchmarks/step_overhead.py --config {args.config} "
        f"--batch_size {args.batch_size} --steps {args.steps} --rounds {args.rounds}",
        "device": jax.devices()[0].device_kind,
        "machine": machine(),
        "load_average_at_start": load,
        "branch": "2-b",
        "seconds_a_step": compared(bare, whole, 0),
        "processor_seconds_a_step": compared(bare, whole, 1),
    }
    report(result, args.result)


if __name__ == "__main__":
    main()
