"""Many tasks in processes of their own, any of which may end or hang without harm to the others.

A library that crashes, an allocation that the system answers by killing, and a loop without end
each cost the task that they happen in; its process is replaced by a new one. The pools of
`concurrent.futures` break as a whole instead.
"""

import collections
import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any

from iso3d_jax.core.errors import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None

SECONDS_TO_START = 300.0  # of a process, before its first task


@dataclasses.dataclass(frozen=True)
class Lost:
    """What comes of a task that was not finished, and why."""

    reason: str


def run_each(
    tasks: Iterable[Any],
    make: Callable[[], Any],
    work: Callable[[Any, Any], Any],
    *,
    workers: int = 1,
    seconds: float = math.inf,
    memory: int | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Gives each task to one of several processes; yields (task, result) as they come.

    Args:
      tasks: can be pickled, like `make` and `work`; asked for as processes come free.
      make: called once in each process, before any clock runs and its memory is bounded.
      work: called with what `make` gave and a task. What it raises ends its process.
      workers: processes at once.
      seconds: for one task.
      memory: bytes that a process may hold beyond what it has after `make`; None for any. A bound
        on Linux alone.

    Yields:
      In place of a result, `Lost` where the process ended, took too long or too much.

    Raises:
      UserError: from `make`, or a process ended there.
    """
    source = iter(tasks)
    waiting = collections.deque(itertools.islice(source, workers))
    children: list[_Child] = []
    try:
        while waiting or any(child.busy for child in children):
            busy = sum(child.busy for child in children)
            while len(children) < min(workers, len(waiting) + busy):
                children.append(_Child(make, work, memory))
            for child in children:
                if child.idle and waiting:
                    child.give(waiting.popleft(), seconds)
                    waiting.extend(itertools.islice(source, 1))
            for child in _ready(children):
                task, was_busy = child.task, child.busy
                result = child.answer(seconds, memory)
                if was_busy:
                    yield task, result
            children = [child for child in children if not child.ended]
    finally:
        for child in children:
            child.end()


def _ready(children: list["_Child"]) -> list["_Child"]:
    """Those that have something to say or whose time is up; waits for the first of them."""
    watched = {child.pipe: child for child in children if not child.idle}
    first = min(child.deadline for child in watched.values())
    wait = None if first == math.inf else max(0.0, first - time.monotonic())
    said = connection.wait(list(watched), wait)
    now = time.monotonic()
    return [child for pipe, child in watched.items() if pipe in said or now >= child.deadline]


class _Child:
    """One process, and the task that it has."""

    def __init__(self, make, work, memory: int | None):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, work, memory), daemon=True
        )
        self._process.start()
        theirs.close()  # so that the pipe ends with the process
        self.task: Any = None
        self.idle = self.busy = self.ended = False
        self.deadline = time.monotonic() + SECONDS_TO_START

    def give(self, task, seconds: float):
        self.task, self.idle, self.busy = task, False, True
        self.deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError):  # it ended since, as the pipe will say
            self.pipe.send(task)

    def answer(self, seconds: float, memory: int | None) -> Any:
        """What the process says to its task; `Lost`, and it has ended, where it says nothing."""
        kind: str = "late"
        value: Any = None
        if self.pipe.poll():
            try:
                kind, value = self.pipe.recv()
            except (EOFError, OSError):
                kind = "gone"
        if kind == "done":
            self.idle, self.busy, self.deadline = True, False, math.inf
            return value
        starting = not self.busy
        self.end(patience=0.0 if kind == "late" else 2.0)
        if kind == "refused":
            raise value
        if kind == "late":
            reason = f"it took more than {SECONDS_TO_START if starting else seconds:.0f} s"
        elif kind == "memory":
            reason = f"it needs more than {(memory or 0) / 2**30:.1f} GiB of memory"
        else:
            reason = f"its process ended with {describe_status(self._process.exitcode)}"
        if starting:
            raise UserError(f"a worker process did not start: {reason}")
        return Lost(reason)

    def end(self, patience: float = 0.0):
        """Ends the process, after some seconds in which it may do so by itself."""
        self.ended, self.busy = True, False
        self._process.join(patience)
        self._process.kill()
        self._process.join()
        self.pipe.close()


def describe_status(code: int | None) -> str:
    """How a process ended, for a message: by its exit status, or by a signal's name."""
    if code is None or code >= 0:
        return f"status {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name + (": out of memory, most likely" if code == -9 else "")
    return f"signal {-code}"


def _serve(pipe, make, work, memory: int | None):
    """What a child does: one task after the other, until the parent ends."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent, which ends its children
    try:
        state = make()
    except UserError as e:
        pipe.send(("refused", e))
        return
    bound_memory(memory)
    pipe.send(("done", None))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            result = work(state, task)
        except MemoryError:  # of which libraries seldom recover
            pipe.send(("memory", None))
            os._exit(1)
        pipe.send(("done", result))


def bound_memory(memory: int | None, process: int | str = "self") -> None:
    """Lets a process hold so many bytes beyond what it has; a bound on Linux alone.

    Bounds what is written to, not addresses: drivers reserve many that they never use.

    Args:
      memory: bytes; None for any.
      process: its id; this one if "self".
    """
    status = Path(f"/proc/{process}/status")
    if memory is None or resource is None or not status.exists():
        return
    number = 0 if process == "self" else int(process)
    held = next(
        int(line.split()[1])
        for line in status.read_text().splitlines()
        if line.startswith("VmData:")
    )
    most = held * 1024 + memory
    _, hard = resource.prlimit(number, resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.prlimit(number, resource.RLIMIT_DATA, (most, hard))
