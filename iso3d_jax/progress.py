"""One progress line: how far, how fast, how long still.

    progress = Progress(total=1000, label="stage 1")
    with progress.compiling():                # the first call of a jitted function
        state, metrics = step(state, batch)
    for i in range(1, 1001):
        ...
        progress.update(i, loss=0.12)
    progress.close()

In a terminal the line is rewritten in place; elsewhere a new line is printed every few seconds.
The rate leaves compile time out and looks at the last half minute, so it stays honest when the
speed changes.
"""

import collections
import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TextIO


class Progress:
    """Prints the progress of a loop of `total` steps.

    Args:
      total: how many steps there are in all.
      label: what is being done.
      start: steps already done, after a resume.
      unit: what a step is called in the rate, as in '3.1 it/s'.
      interval: seconds between lines; 5 by default, 0.2 in a terminal.
      stream: where to print; stderr by default.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        start: int = 0,
        unit: str = "it",
        interval: float | None = None,
        stream: TextIO | None = None,
    ):
        self.total, self.label, self.unit = total, label, unit
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._interval = interval if interval is not None else (0.2 if self._terminal else 5.0)
        self._started = time.monotonic()
        self._shown = 0.0
        self._paused = 0.0
        self._width = 0
        self._last: tuple[int, dict[str, float]] = (start, {})
        self._points = collections.deque([(self._clock(), start)])

    def update(self, step: int, **metrics: float) -> None:
        """Says that `step` steps are done, and prints them with `metrics` when it is time to."""
        self._last = (step, metrics)
        now = self._clock()
        self._points.append((now, step))
        while len(self._points) > 2 and now - self._points[0][0] > 30.0:
            self._points.popleft()
        if step >= self.total or time.monotonic() - self._shown >= self._interval:
            self._show(self._line(step, metrics))

    @contextlib.contextmanager
    def compiling(self, what: str = "") -> Iterator[None]:
        """Shows 'compiling' around the first call of a jitted function; its time is not counted."""
        begin = time.monotonic()
        self._show(f"{self.label}: compiling {what}".rstrip() + " ...")
        yield
        self._paused += time.monotonic() - begin
        self._points = collections.deque([(self._clock(), self._last[0])])

    def note(self, text: str) -> None:
        """Prints a line of its own, above the progress line."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Ends the line and says how long it all took."""
        step, metrics = self._last
        seconds = time.monotonic() - self._started
        line = f"{self.label}: {step}/{self.total} in {duration(seconds)}{_metrics(metrics)}"
        self._show(line)
        if self._terminal:
            print(file=self._stream, flush=True)
        self._width = 0

    def _clock(self) -> float:
        return time.monotonic() - self._paused

    def _line(self, step: int, metrics: dict[str, float]) -> str:
        (t0, s0), (t1, s1) = self._points[0], self._points[-1]
        text = f"{self.label}: {step}/{self.total}"
        if s1 > s0 and t1 - t0 > 0.05:  # else it was all in the compiling
            rate = (s1 - s0) / (t1 - t0)
            text += f"  {rate:.3g} {self.unit}/s  {duration((self.total - step) / rate)} left"
        return text + _metrics(metrics)

    def _show(self, line: str) -> None:
        self._shown = time.monotonic()
        if self._terminal:
            print("\r" + line.ljust(self._width), end="", file=self._stream, flush=True)
            self._width = len(line)
        else:
            print(line, file=self._stream, flush=True)

    def _clear(self) -> None:
        if self._terminal and self._width:
            print("\r" + " " * self._width + "\r", end="", file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person would say them: '8 s', '3 min 20 s', '2 h 05 min'."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _metrics(metrics: dict[str, float]) -> str:
    return "".join(
        f"  {name} {value:.4g}" if isinstance(value, float) else f"  {name} {value}"
        for name, value in metrics.items()
    )
