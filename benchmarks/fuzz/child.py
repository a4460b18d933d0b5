"""One process that tries inputs of a corpus under limits: `python -m benchmarks.fuzz.child`.

Before an input it prints its number and name, after it one of ok, our error, other, memory and
hang with a few words, each line as JSON. The driver reads them, and knows by the last line which
input a process died of.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

MEMORY = 2 << 30  # bytes beyond what the process has after its warm-up
SECONDS = 5.0  # of processor time, where a corpus says nothing else
WALL = 24  # so many times that by the clock, for what waits without working


class _Late(BaseException):
    """The input took too long; no `except Exception` catches it."""


def main(argv: list[str]) -> None:
    """CORPUS SEED COUNT START STOP [FUNCTION]."""
    corpus, seed, count, start, stop = argv[0], *map(int, argv[1:5])
    module = importlib.import_module(f"benchmarks.fuzz.{corpus}")
    cases = getattr(module, argv[5] if len(argv) > 5 else "cases")
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what is printed meanwhile is no report
    getattr(module, "warm_up", lambda: None)()
    _limit_memory()
    limit = getattr(module, "SECONDS", SECONDS)
    for index, case in enumerate(itertools.islice(cases(seed, count), stop)):
        if index < start:
            continue
        print(json.dumps({"index": index, "name": case[0], "limit": limit * WALL}), file=reports)
        verdict, detail, seconds = _try(module, case, limit)
        line = {"index": index, "name": case[0], "verdict": verdict, "detail": detail[:300]}
        print(json.dumps(line | {"seconds": round(seconds, 3)}), file=reports)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _late(*_):
    raise _Late


def _try(module, case, limit: float) -> tuple[str, str, float]:
    """(verdict, detail, seconds of processor time)."""
    from iso3d_jax.core.errors import UserError

    _, content, entry = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (entry if isinstance(content, dict) else "case" + entry)
        files = content if isinstance(content, dict) else {path.name: content}
        for name, raw in files.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(raw)
        signal.signal(signal.SIGPROF, _late)
        begin = time.process_time()
        try:
            signal.setitimer(signal.ITIMER_PROF, limit)
            try:
                module.attempt(path)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            verdict, detail = "ok", ""
        except UserError as error:
            verdict, detail = "our error", str(error)
            if not detail.isprintable() or len(detail) > 4000:
                verdict, detail = "other", f"not one sentence: {detail!r}"
        except MemoryError as error:
            verdict, detail = "memory", repr(error)
        except _Late:
            verdict, detail = "hang", f"more than {limit:g} s of processor time"
        except (Exception, SystemExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = ([f for f in frames if "iso3d_jax" in f.filename] or frames)[-1]
            verdict = "memory" if "RESOURCE_EXHAUSTED" in str(error) else "other"
            detail = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        return verdict, detail.replace(folder, "FOLDER"), time.process_time() - begin


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1:])
