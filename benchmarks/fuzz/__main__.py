"""Tries damaged and hostile inputs by the thousand, and prints what came of them.

    python -m benchmarks.fuzz --out benchmarks/results/fuzz
    python -m benchmarks.fuzz --corpus weights --count 200

Each corpus (`pictures`, `meshes`, `weights`, `documents`, `checkpoints`) runs in child processes
with 2 GB of memory and a few seconds of processor time for each input. An input is ok, refused by
our own error, or ended by something else, by a hang or for want of memory: of the last three there
must be none, or the exit status is 1. A stopped run goes on where it was; with another seed, count
or code, give another --out.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
COUNTS = {"pictures": 10_000, "meshes": 4_000, "weights": 3_000, "documents": 1_500,
          "checkpoints": 300}  # fmt: skip
VERDICTS = ("ok", "our error", "other", "hang", "memory")
BAD = VERDICTS[2:]
BATCH = 250  # inputs a process, so that what one leaves behind does not add up
START = 1200.0  # seconds for imports and warm-up, by the clock of a machine with other work


def run_corpus(
    corpus: str,
    seed: int,
    count: int,
    log: Path | None = None,
    function: str = "cases",
    batch: int = BATCH,
) -> list[dict]:
    """Tries a corpus's inputs, but for those that the log has.

    Args:
      corpus: the module's name.
      seed, count: of its inputs.
      log: file of a JSON line an input; what is in it is not tried again.
      function: what makes the inputs.
      batch: inputs a process.

    Returns:
      A line for each: index, name, verdict, detail, seconds.
    """
    done: list[dict] = []
    if log is not None and log.is_file():
        done = [json.loads(line) for line in log.read_text().splitlines()]
    while len(done) < count:
        start = len(done)
        stop = min(count, start + batch)
        fresh: list[dict] = []
        for line in _child(corpus, seed, count, start, stop, function):
            fresh.append(line)
            if log is not None:
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        if not fresh:
            raise SystemExit(f"{corpus}: the process ended before its first input")
        done += fresh
    return done


def _child(corpus: str, seed: int, count: int, start: int, stop: int, function: str) -> Iterator:
    """The lines of one process; the last one tells of what ended it, where something did."""
    command = [sys.executable, "-m", "benchmarks.fuzz.child", corpus]
    command += [str(number) for number in (seed, count, start, stop)] + [function]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment
        ) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        current, patience, rest, late = None, START, b"", False
        while True:
            if not selector.select(patience):
                late = True
                process.kill()
                break
            raw = os.read(process.stdout.fileno(), 1 << 16)
            if not raw:
                break
            *lines, rest = (rest + raw).split(b"\n")
            for line in map(json.loads, lines):
                if "verdict" in line:
                    current, patience = None, START
                    yield line
                else:
                    current, patience = line, line["limit"]
        status = process.wait()
        if current is not None:
            current.pop("limit")
            verdict = "hang" if late else "other"
            yield current | {
                "verdict": verdict, "detail": f"the process ended with {status}", "seconds": 0.0
            }  # fmt: skip


def table(results: dict[str, list[dict]]) -> str:
    """How many inputs of each corpus came to what, in Markdown."""
    rows = ["| corpus | inputs | " + " | ".join(VERDICTS) + " | longest, s |"]
    rows.append("| --- " * (len(VERDICTS) + 3) + "|")
    for corpus, lines in results.items():
        found = Counter(line["verdict"] for line in lines)
        counts = " | ".join(str(found[verdict]) for verdict in VERDICTS)
        longest = max(line["seconds"] for line in lines)
        rows.append(f"| {corpus} | {len(lines)} | {counts} | {longest:.1f} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--corpus", action="append", choices=list(COUNTS), help="only this one")
    parser.add_argument("--count", type=int, help="inputs of each corpus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the table and of a log a corpus")
    options = parser.parse_args()
    results = {}
    for corpus in options.corpus or COUNTS:
        log = None
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            log = options.out / f"{corpus}.jsonl"
        count = options.count or COUNTS[corpus]
        results[corpus] = run_corpus(corpus, options.seed, count, log)
        for line in results[corpus]:
            if line["verdict"] in BAD:
                print(f"{corpus} {line['index']} {line['name']}: {line['verdict']}: "
                      f"{line['detail']}")  # fmt: skip
    text = table(results)
    print(text, end="")
    if options.out:
        (options.out / "table.md").write_text(text)
    if any(line["verdict"] in BAD for lines in results.values() for line in lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
