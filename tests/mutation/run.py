"""Mutation testing: faults are put into the core one at a time, and the tests have to notice.

    python -m tests.mutation.run                          # 230 faults, seed 0; writes results.md
    python -m tests.mutation.run --area nerf --all        # every fault of one area
    python -m tests.mutation.run --module nerf/render.py --count 20
    python -m tests.mutation.run --survivors              # those that survived the last time again

Each fault is written into a copy of the tree, where the fast tests of its module run (`judges.py`)
in a process forked from one that has imported JAX already, so that a fault costs the tests' own
seconds. Faults are drawn with a seed, each area in proportion to its size but with 8 at least. A
fault is killed when a test fails, or when the tests take five times as long as without it.
What is known of a fault stands in `out/mutation/results.json` and holds until its module or the
tests that judge it change, so a run that was cut goes on where it was. Survivors are listed in
`results.md` with the reason that `reasons.toml` gives; the exit status is
1 where fewer than 85% are killed, or where a survivor has no reason.

Why not mutmut or cosmic-ray: mutmut wraps every function in a dispatcher with the signature
`(*args, **kwargs)`, which jax.jit's static argument names, dataclasses and flax's modules do not
survive; cosmic-ray starts a new interpreter for each fault, 8 s of imports each, edits the tree
that one works in, and judges every module by one test command.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from pathlib import Path

from tests.mutation import judges, operators
from tests.mutation.table import write_table

ROOT = judges.ROOT
HERE = Path(__file__).parent
KEPT = ROOT / "out" / "mutation" / "results.json"
LEAST = 8  # faults of an area
PASSING = 0.85
PASSED = (0, 5)  # pytest's: all pass, or all are slow or skipped
# Imported once and inherited by every process. Nothing of the package itself: it is what changes.
WARM = (
    "jax", "jax.numpy", "flax.nnx", "optax", "orbax.checkpoint", "numpy", "scipy.ndimage",
    "scipy.spatial", "PIL.Image", "ml_collections", "pytest", "hypothesis", "jaxtyping",
    "jax.experimental.pallas", "trimesh", "skimage.measure", "absl.flags",
)  # fmt: skip


def draw(args) -> list[tuple[str, operators.Mutant]]:
    """(area, fault) of every fault to try."""
    drawn = []
    found = {}
    for area, paths in judges.modules().items():
        if args.area and area not in args.area:
            continue
        faults = []
        for path in paths:
            name = path.relative_to(ROOT).as_posix()
            if args.module and not any(name.endswith(module) for module in args.module):
                continue
            if not judges.judges(path):
                raise SystemExit(f"{name} has no tests that judge it: name them in judges.py")
            faults += operators.mutants_of(name, path.read_text())
        found[area] = faults
    total = sum(map(len, found.values()))
    for area, faults in found.items():
        count = max(LEAST, round(args.count * len(faults) / max(total, 1)))
        if args.all:
            count = len(faults)
        generator = random.Random(f"{args.seed} {area}")
        chosen = generator.sample(faults, min(count, len(faults)))
        drawn += [(area, fault) for fault in sorted(chosen, key=lambda one: (one.path, one.start))]
    return drawn


def copy_tree(folder: Path) -> Path:
    """A copy of the files that git knows or could add, to put faults into."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def start(tree: Path, tests: list[str], log: Path) -> int:
    """Forks a process that runs tests in a tree; its number."""
    number = os.fork()
    if number:
        return number
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    status = 3
    try:
        import pytest

        flags = [
            "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow",
            "-W", "ignore::pytest.PytestAssertRewriteWarning",  # plugins are imported already
        ]  # fmt: skip
        status = int(pytest.main([*flags, *tests]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


class Worker:
    """A copy of the tree and the process that runs in it."""

    def __init__(self, folder: Path):
        self.tree = copy_tree(folder / "tree")
        self.log = folder / "log.txt"
        self.number = None

    def start(self, job: dict) -> None:
        """Puts the job's fault into the tree, where it has one, and starts its tests."""
        self.job = job
        if fault := job.get("fault"):
            path = self.tree / fault.path
            path.write_text(fault.applied((ROOT / fault.path).read_text()))
        self.begin = time.monotonic()
        self.number = start(self.tree, job["tests"], self.log)

    def finished(self) -> bool:
        """Whether the job has ended; then its `status`, `seconds` and the test that noticed."""
        number, status = os.waitpid(self.number, os.WNOHANG)
        self.job["seconds"] = round(time.monotonic() - self.begin, 1)
        if not number:
            if self.job["seconds"] < self.job["limit"]:
                return False
            os.killpg(self.number, signal.SIGKILL)
            os.waitpid(self.number, 0)
            status = None
        self.job["status"] = "too long" if status is None else os.waitstatus_to_exitcode(status)
        text = self.log.read_text(errors="replace")
        marks = ("FAILED ", "ERROR ")
        failed = [line for line in text.splitlines() if line.startswith(marks)]
        self.job["noticed_by"] = failed[0].split(" ", 1)[1][:120] if failed else ""
        self.job["output"] = text[-3000:]
        if fault := self.job.get("fault"):
            shutil.copy2(ROOT / fault.path, self.tree / fault.path)
        self.number = None
        return True


def run_jobs(jobs: list[dict], workers: list[Worker], title: str, done=lambda job: None) -> None:
    """Runs every job on the workers, with a line of progress for each; `done` is told of each."""
    waiting = list(reversed(jobs))
    begin, finished = time.monotonic(), 0
    while waiting or any(worker.number for worker in workers):
        for worker in workers:
            if worker.number and worker.finished():
                finished += 1
                job = worker.job
                done(job)
                left = (time.monotonic() - begin) / finished * (len(jobs) - finished)
                verdict = "survived" if job["status"] in PASSED else "killed"
                name = job["fault"].name if "fault" in job else " ".join(job["tests"])
                print(
                    f"{title} {finished}/{len(jobs)}  {left / 60:.0f} min left  "
                    f"{verdict if 'fault' in job else job['status']} "
                    f"in {job['seconds']:.0f} s  {name[:150]}",
                    flush=True,
                )
            if not worker.number and waiting:
                worker.start(waiting.pop())
        time.sleep(0.05)


def baseline(files: list[str], workers: list[Worker]) -> dict[str, float]:
    """Seconds of each file of tests without a fault, its programs compiled; all must pass."""
    jobs = [{"tests": [one], "limit": 1800} for one in files]
    run_jobs(jobs, workers, "without faults")
    for job in jobs:
        if job["status"] not in PASSED:
            print(job["output"])
            raise SystemExit(f"{job['tests'][0]} fails without any fault")
    return {job["tests"][0]: job["seconds"] for job in jobs}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=230, help="faults over all areas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--area", action="append", choices=sorted(judges.AREAS))
    parser.add_argument("--module", action="append", help="such as nerf/render.py")
    parser.add_argument("--all", action="store_true", help="every fault, none drawn")
    parser.add_argument("--survivors", action="store_true", help="those of the last run again")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=KEPT, help="what is known, as JSON")
    args = parser.parse_args()
    known = json.loads(args.out.read_text()) if args.out.exists() else {}
    args.all |= args.survivors  # whatever was drawn the last time
    drawn = draw(args)
    if args.survivors:
        drawn = [(area, fault) for area, fault in drawn if fault.name in known]
    tests = {fault.path: judges.judges(ROOT / fault.path) for _, fault in drawn}
    state = {path: state_of([path, *tests[path]]) for path in tests}

    def to_try(fault):
        entry = known.get(fault.name, {})
        again = args.survivors and not entry["killed"]
        return again or entry.get("state") != state[fault.path]

    left = [(area, fault) for area, fault in drawn if to_try(fault)]
    print(
        f"{len(drawn)} faults in {len(tests)} modules, {len(left)} of them to be tried", flush=True
    )

    def keep(job):
        fault = job["fault"]
        known[fault.name] = {
            "area": job["area"], "line": fault.line, "kind": fault.kind,
            "killed": job["status"] not in PASSED, "seconds": job["seconds"],
            "noticed_by": job["noticed_by"], "state": state[fault.path],
        }  # fmt: skip
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(known, indent=1) + "\n")

    if left:
        try_faults(left, tests, args.workers, keep)
    results = [known[fault.name] | {"name": fault.name} for _, fault in drawn]
    reasons = tomllib.loads((HERE / "reasons.toml").read_text())
    part = args.area or args.module or args.survivors
    table = args.out.with_suffix(".md") if part else HERE / "results.md"
    share, unexplained = write_table(results, reasons, table, args.seed)
    killed = Counter(one["killed"] for one in results)[True]
    print(f"{killed} of {len(results)} killed ({share:.0%}), {unexplained} survivors unexplained")
    sys.exit(share < PASSING or unexplained > 0)


def state_of(paths: list[str]) -> str:
    """A digest of files: of a module and its tests."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update((ROOT / path).read_bytes())
    return digest.hexdigest()[:16]


def try_faults(faults: list, tests: dict[str, list[str]], count: int, keep) -> None:
    """Tries (area, fault) after (area, fault) on `count` processes; `keep` gets each result."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(KEPT.with_name("xla")),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        sys.dont_write_bytecode = True
        for name in WARM:
            importlib.import_module(name)
        workers = []
        for index in range(count):
            (Path(folder) / str(index)).mkdir()
            workers.append(Worker(Path(folder) / str(index)))
        needed = {one for _, fault in faults for one in tests[fault.path]}
        seconds = baseline(sorted(needed), workers)
        jobs = [
            {
                "area": area, "fault": fault, "tests": tests[fault.path],
                "limit": 60 + 5 * sum(seconds[one] for one in tests[fault.path]),
            }
            for area, fault in faults
        ]  # fmt: skip
        run_jobs(jobs, workers, "fault", keep)


if __name__ == "__main__":
    main()
