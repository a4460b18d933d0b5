"""SIGTERM where no loop waits for it: what is half written is taken away, the status is 143.

A handler raises where the program happens to be, and there are places that lose an exception: a
callback of the garbage collection (JAX has one), a `__del__`, a library's bare `except`. A quarter
of the signals during the imports were lost so. It is raised again until the command unwinds.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator

AGAIN_S = 0.5  # seconds until an exception that was lost is raised again


class _Terminated(SystemExit):
    """SIGTERM came."""


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Ends what runs within it on SIGTERM; before and after it the signal is what it was."""
    if threading.current_thread() is not threading.main_thread():  # Python's rule for signals
        yield
        return
    before, hook = signal.signal(signal.SIGTERM, _raise), sys.unraisablehook

    def report(lost) -> None:
        if not isinstance(lost.exc_value, _Terminated):
            hook(lost)

    sys.unraisablehook = report
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook


def _raise(number: int, _frame: object) -> None:
    # Not `threading`, whose lock the interrupted code may hold.
    _thread.start_new_thread(_send_again, (signal.Signals(number),))
    if not _is_unwinding():
        raise _Terminated(128 + number)


def _send_again(number: signal.Signals) -> None:
    """Makes the main thread handle the signal once more; nothing where nobody handles it by now."""
    time.sleep(AGAIN_S)
    _thread.interrupt_main(number)


def _is_unwinding() -> bool:
    """Whether a `finally`, an `except` or an `__exit__` is at work because of the signal."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, _Terminated):
        error = error.__context__
    return error is not None
