"""How a run ends before its last step: signals, a process that is gone, and the exit statuses.

| status | meaning | launchers |
| --- | --- | --- |
| 0 | all steps are done | stop |
| 2 | a mistake in what was given, a loss that went bad, a full disk | stop |
| 130 | Ctrl-C; saved | stop |
| 143 | SIGTERM (preemption); saved | start again |
| 75 | another process of the run is gone; the last checkpoint stands | start again |
| 134 | the same, said by jax's own service, which aborts the process | start again |
"""

from __future__ import annotations

import os
import signal
import sys

import jax

EXIT_PREEMPTED = 143  # 128 + SIGTERM
EXIT_PEER_LOST = 75  # EX_TEMPFAIL


class StopSignals:
    """Notes SIGTERM and SIGINT so that the loop can save; a second SIGINT ends at once.

    In a run of several processes jax's own service catches SIGTERM in any of them and makes all
    agree on the step to stop after.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._shared = jax.process_count() > 1

    def __enter__(self):
        caught = (signal.SIGINT,) if self._shared else (signal.SIGTERM, signal.SIGINT)
        self._old = {s: signal.signal(s, self._note) for s in caught}
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def after(self, step: int) -> bool:
        """Whether to save and end after this step; all processes get the same answer."""
        if self._shared:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.received = signal.SIGTERM
        return self.received is not None

    def _note(self, number, _frame):
        if self._shared or (self.received is not None and number == signal.SIGINT):
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


def leave_broken_run(error: BaseException, last_checkpoint: int | None, workdir) -> None:
    """Ends this process, because another one of the run is gone; does not return.

    Nothing is shut down in order: every orderly end waits for the process that is gone.
    """
    reason = str(error).strip().splitlines()[0][:200]
    print(
        f"error: process {jax.process_index()} of {jax.process_count()} lost another process of "
        f"this run ({reason}); the last checkpoint is of step {last_checkpoint or 0} in {workdir}; "
        "start the same command again on all of them",
        file=sys.stderr,
        flush=True,
    )
    sys.stdout.flush()
    os._exit(EXIT_PEER_LOST)
