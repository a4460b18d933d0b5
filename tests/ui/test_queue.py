"""The order of jobs: short ones first, places in line, and how many may wait."""

import threading

import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.ui.queue import EXPORT, OBJECT, VIEWS, Job, Queue


def test_short_jobs_come_before_objects_each_in_order():
    queue = Queue(10)
    jobs = [Job("a", OBJECT), Job("a", VIEWS), Job("b", OBJECT), Job("b", EXPORT, "obj")]
    for job in jobs:
        queue.put(job)
    assert [queue.ahead(job) for job in jobs] == [2, 0, 3, 1] and len(queue) == 4
    assert queue.take_short() == jobs[1]
    assert [queue.take() for _ in range(3)] == [jobs[3], jobs[0], jobs[2]]
    assert queue.take_short() is None and queue.ahead(jobs[0]) is None


def test_as_many_wait_as_may_and_one_that_is_taken_out_makes_room():
    queue = Queue(2)
    queue.put(Job("a", OBJECT))
    queue.put(Job("b", VIEWS))
    with pytest.raises(UserError, match="2 jobs are waiting already"):
        queue.put(Job("c", VIEWS))
    assert queue.remove(Job("a", OBJECT)) and not queue.remove(Job("a", OBJECT))
    queue.put(Job("c", VIEWS))
    assert len(queue) == 2


def test_who_waits_is_let_go_when_it_is_closed():
    queue, got = Queue(2), []
    thread = threading.Thread(target=lambda: got.append(queue.take()))
    thread.start()
    queue.close()
    thread.join(10)
    assert got == [None]
    with pytest.raises(UserError, match="being stopped"):
        queue.put(Job("a", VIEWS))
