"""One iteration of a draft and one of score distillation, beside an older revision's in one run.

    git worktree add ../before REVISION
    taskset -c 1 python benchmarks/iterations.py --beside ../before --result FILE.json

The shipped model and the preset `tiny`, compiled for one thread. Each checkout has a process of its
own, and their calls alternate: five iterations a call, the processor time of each process for one.
`load_model` is timed once, first thing in each process. Drafts are of round discs, which all
sets of views show; distillation goes on from a draft of twenty iterations.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
EACH = 5  # iterations a call


def work(root: Path) -> None:
    """What a checkout's process does: says what it found once, then a line for each it reads."""
    sys.path[:0] = [str(root)]
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
    import jax
    import jax.numpy as jnp

    import iso3d_jax
    from iso3d_jax import sampling
    from iso3d_jax.commands import config_files
    from iso3d_jax.data.pictures import load_picture
    from iso3d_jax.reconstruction import run, state, step
    from iso3d_jax.reconstruction.init import draft
    from iso3d_jax.reconstruction.spec import make_spec
    from iso3d_jax.weights.bundle import load_model

    if Path(iso3d_jax.__file__).parents[1] != root:
        raise SystemExit(f"the package of {root} is not the one that was imported")
    jax.config.update("jax_enable_compilation_cache", False)
    spec = make_spec(config_files.load_config(str(root / "configs" / "reconstruct.py") + ":tiny"))
    began = time.process_time()
    model = load_model(None)
    found = {"load_model": time.process_time() - began}
    example = root / "iso3d_jax" / "data" / "examples" / "trash_can.png"
    (picture,) = sampling.prepare_all(model, [load_picture(example)])
    denoiser, denoiser_spec = run.make_denoiser(model, picture)
    y, x = np.mgrid[:64, :64] - 31.5
    views = np.ones((len(spec.draft.sets), spec.views, 64, 64, 3), np.float32)
    views[:, :, y**2 + x**2 < 20**2] = [0.6, 0.3, 0.2]
    draft_spec = draft.draft_spec(spec, 64)
    sources = {"draft": (draft_spec, draft.make_source(views, draft_spec)), "sds": (spec, denoiser)}
    key, scenes, programs = jax.random.key(spec.seed), {}, {}
    for name, (its, source) in sources.items():
        scene = state.start(its)
        if name == "sds":
            begun = jax.tree.map(jnp.copy, scenes["draft"])
            scene = draft.begin_from(begun, spec)
        began = time.process_time()
        traced = step.run_steps.trace(
            scene, source, jnp.int32(1), key, capacity=20, spec=its.of_iterations,
            denoiser_spec=denoiser_spec, phase=0,
        )  # fmt: skip
        middle = time.process_time()
        programs[name] = traced.lower().compile()
        found |= {f"{name}_trace": middle - began, f"{name}_compile": time.process_time() - middle}
        scenes[name], record = programs[name](scene, source, jnp.int32(20), key)
        found[f"{name}_loss"] = float(record["total"][19])
    print(json.dumps(found), flush=True)
    for name in map(str.strip, sys.stdin):
        began = time.process_time()
        scene, _ = programs[name](scenes[name], sources[name][1], jnp.int32(EACH), key)
        scenes[name] = jax.block_until_ready(scene)
        print((time.process_time() - began) / EACH, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beside", type=Path, help="folder of another checkout of the repository")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--result", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work)
        return
    sys.path.insert(0, str(ROOT))
    from measuring import machine, report

    roots = {"now": ROOT} | ({"before": args.beside.resolve()} if args.beside else {})
    processes, facts = {}, {}
    for name, root in roots.items():
        processes[name] = subprocess.Popen(
            [sys.executable, __file__, "--work", str(root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(root)},
        )  # fmt: skip
        facts[name] = json.loads(processes[name].stdout.readline())
    times = {name: {"draft": [], "sds": []} for name in roots}
    for _ in range(args.repeats):
        for kind in ("draft", "sds"):
            for name, process in processes.items():
                process.stdin.write(f"{kind}\n")
                process.stdin.flush()
                times[name][kind].append(float(process.stdout.readline()))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    seconds = {
        name: {k: round(v, 4) for k, v in facts[name].items()}
        | {kind: round(float(np.median(each)), 5) for kind, each in times[name].items()}
        for name in roots
    }
    result = {
        "command": f"python benchmarks/iterations.py --repeats {args.repeats}"
        + " --beside CHECKOUT" * bool(args.beside),
        "machine": machine(),
        "load_average": os.getloadavg()[1],
        "clock": "processor time, one thread",
        "seconds": seconds,
    }
    if args.beside:
        result["ratio"] = {
            kind: round(seconds["now"][kind] / seconds["before"][kind], 3)
            for kind in ("draft", "sds")
        }
    report(result, args.result)


if __name__ == "__main__":
    main()
