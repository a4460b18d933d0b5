"""What is to be done, in order: short jobs first, and everybody is told their place.

Views take seconds and an object minutes. A short job never waits for an object: workers take it
before the next object, and between the iterations of the one that they are at.
"""

from __future__ import annotations

import collections
import dataclasses
import threading

from iso3d_jax.core.errors import UserError
from iso3d_jax.ui.runs import Run

VIEWS, EXPORT, OBJECT = "views", "export", "object"


@dataclasses.dataclass(frozen=True)
class Job:
    """Something to be done for a run: its views, its object, or a file of `detail`'s kind."""

    run: Run
    kind: str
    detail: str = ""


class Queue:
    """Jobs of all runs. Nothing in it is on the disk: a run's file says that it waits.

    Args:
      most: jobs that may wait at once.
    """

    def __init__(self, most: int):
        self.most = most
        self._short: collections.deque[Job] = collections.deque()
        self._long: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job) -> None:
        """Lets a job wait.

        Raises:
          UserError: so many wait that this one had better come later, or the server ends.
        """
        with self._changed:
            if self._closed:
                raise UserError("the server is being stopped: start it again, and try then")
            if len(self._short) + len(self._long) >= self.most:
                raise UserError(
                    f"{self.most} jobs are waiting already, which is as many as may: try again in "
                    "a few minutes"
                )
            (self._long if job.kind == OBJECT else self._short).append(job)
            self._changed.notify_all()

    def take(self) -> Job | None:
        """The next job; waits for one. None where the queue is closed."""
        with self._changed:
            while not (self._short or self._long or self._closed):
                self._changed.wait()
            if self._closed:
                return None
            return (self._short or self._long).popleft()

    def take_short(self) -> Job | None:
        """The next short job, or None where there is none now."""
        with self._changed:
            return self._short.popleft() if self._short and not self._closed else None

    def ahead(self, job: Job) -> int | None:
        """How many wait before a job; None where it does not wait."""
        with self._changed:
            waiting = [*self._short, *self._long]
            return waiting.index(job) if job in waiting else None

    def remove(self, job: Job) -> bool:
        """Takes a job out; False where it does not wait any more."""
        with self._changed:
            for jobs in (self._short, self._long):
                if job in jobs:
                    jobs.remove(job)
                    return True
            return False

    def __len__(self) -> int:
        return len(self._short) + len(self._long)

    def close(self) -> None:
        """Gives out no job any more; what waits is left to the next server."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
