"""core/child_processes.py: a process that crashes, hangs or grows costs one task."""

import os
import signal
import sys
import time

import pytest

from iso3d_jax.core import child_processes
from iso3d_jax.core.child_processes import Lost, run_each
from iso3d_jax.core.errors import UserError


def made():
    return {"pid": os.getpid(), "done": 0}


def work(state, task):
    if task == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "exit":
        os._exit(7)
    if task == "hang":
        time.sleep(600)
    if task == "grow":
        return len(bytearray(300 << 20))
    state["done"] += 1
    return task, state["pid"], state["done"]


def refuses():
    raise UserError("no EGL context")


def ends():
    os._exit(3)


def test_what_ends_hangs_or_grows_costs_one_task():
    tasks = ["a", "crash", "b", "killed", "exit", "c", "hang", "grow", "d"]
    found = dict(run_each(tasks, made, work, workers=2, seconds=2.0, memory=200 << 20))
    assert set(found) == set(tasks)
    assert [found[task][0] for task in "abcd"] == list("abcd")
    assert found["crash"] == Lost("its process ended with SIGSEGV")
    assert found["killed"].reason == "its process ended with SIGKILL: out of memory, most likely"
    assert found["exit"] == Lost("its process ended with status 7")
    assert found["hang"] == Lost("it took more than 2 s")
    if sys.platform == "linux":
        assert found["grow"] == Lost("it needs more than 0.2 GiB of memory")


def test_tasks_are_asked_for_as_processes_come_free():
    asked = []

    def tasks():
        for k in range(1, 13):
            asked.append(k)
            yield k

    for done, _ in enumerate(run_each(tasks(), made, work, workers=2), 1):
        assert len(asked) <= done + 4
    assert done == 12


def test_a_process_takes_many_tasks_and_none_outlives_the_loop():
    found = list(run_each(range(1, 6), made, work))
    assert [task for task, _ in found] == [1, 2, 3, 4, 5]
    assert {pid for _, (_, pid, _) in found} == {found[0][1][1]} != {os.getpid()}
    assert [done for _, (_, _, done) in found] == [1, 2, 3, 4, 5]
    some = run_each(["a", "hang"], made, work)
    _, (_, pid, _) = next(some)
    some.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_cannot_start_is_said_once(monkeypatch):
    with pytest.raises(UserError, match="no EGL context"):
        list(run_each("ab", refuses, work))
    with pytest.raises(UserError, match="a worker process did not start: .* status 3"):
        list(run_each("ab", ends, work))
    monkeypatch.setattr(child_processes, "SECONDS_TO_START", 0.0)
    with pytest.raises(UserError, match="a worker process did not start: it took more than 0 s"):
        list(run_each("ab", made, work))


def test_no_tasks_need_no_process(monkeypatch):
    monkeypatch.setattr(child_processes, "_Child", None)
    assert list(run_each([], made, work)) == []
