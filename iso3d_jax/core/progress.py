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
speed changes. Where nobody said what compiles, the first step says nothing of the others: there is
no rate before the second, and a first one that took far longer is left out. It is not tqdm's bar:
that writes carriage returns into files too, and counts compiling into its rate, so that all but the
rewriting of a line would stay ours.

`Steps` shows several things that are done one after another. `listening` tells somebody else what
the lines of a block say, as it is said.
"""

import collections
import contextlib
import contextvars
import dataclasses
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

FIRST_STEP = 3.0  # times as long as the second: it compiled something

# How functions that know nothing of terminals say what they do: (what, done, total), called as it
# goes; a total of 0 where nobody knows how far it is.
Report = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Status:
    """What a progress line says.

    Attributes:
      label: what is being done.
      doing: what is done just now that is no step, as 'compiling 32x32 renders'; '' for steps.
      step, total: how far it is; a total of 0 where nobody knows.
      unit: what a step is called, 'it' for an iteration.
      seconds_left: of its steps, or None while there is no rate.
      metrics: the last step's.
    """

    label: str
    doing: str
    step: int
    total: int
    unit: str
    seconds_left: float | None
    metrics: Mapping[str, float]


_listeners: contextvars.ContextVar[tuple[Callable[[Status], None], ...]] = contextvars.ContextVar(
    "listeners", default=()
)


@contextlib.contextmanager
def listening(listener: Callable[[Status], None]) -> Iterator[None]:
    """Tells `listener` of every step of this thread's progress lines, however seldom they print.

    Those that listen already, such as the page of a run and a server around it, go on hearing.
    """
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


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
        stream: TextIO | io.TextIOBase | None = None,
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
        self._first = True  # whether what the first step says is not known yet

    def update(self, step: int, **metrics: float) -> None:
        """Says that `step` steps are done, and prints them with `metrics` when it is time to."""
        self._last = (step, metrics)
        now = self._clock()
        if len(self._points) == 1 and now - self._points[0][0] < 0.05:
            self._points.clear()  # the step was part of what was not counted
        self._points.append((now, step))
        if self._first and len(self._points) == 3:
            (t0, s0), (t1, s1), (t2, s2) = self._points
            if (t1 - t0) * max(s2 - s1, 1) > FIRST_STEP * (t2 - t1) * max(s1 - s0, 1):
                self._points.popleft()
            self._first = False
        while len(self._points) > 2 and now - self._points[0][0] > 30.0:
            self._points.popleft()
        self._tell()
        if time.monotonic() - self._shown >= self._interval:
            self._show(self._line(step, metrics))

    def compiling(self, what: str = "") -> contextlib.AbstractContextManager[None]:
        """Shows 'compiling' around the first call of a jitted function; its time is not counted."""
        return self.doing(f"compiling {what}".rstrip())

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Shows something that is no step; its time is not counted into the rate."""
        begin = time.monotonic()
        self.say(what)
        yield
        self._paused += time.monotonic() - begin
        self._points = collections.deque([(self._clock(), self._last[0])])
        self._first = False
        self._tell()

    def say(self, what: str) -> None:
        """Shows what is done now in the place of the progress, before there is any."""
        self._tell(what)
        self._show(f"{self.label}: {what}".rstrip(": ") + " ...")

    def note(self, text: str) -> None:
        """Prints a line of its own, above the progress line."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def worth_an_end(self) -> bool:
        """Whether it took a second or more, or has a terminal's line to end."""
        return self._terminal or time.monotonic() - self._started >= 1.0

    def close(self) -> None:
        """Ends the line and says how long it all took."""
        step, metrics = self._last
        seconds = time.monotonic() - self._started
        steps = f"{step}/{self.total} in " if self.total else ""
        line = f"{self.label}: {steps}{duration(seconds)}{_metrics(metrics)}"
        self._show(line)
        if self._terminal:
            print(file=self._stream, flush=True)
        self._width = 0

    def _clock(self) -> float:
        return time.monotonic() - self._paused

    def _rate(self) -> float | None:
        (t0, s0), (t1, s1) = self._points[0], self._points[-1]
        if s1 > s0 and t1 - t0 > 0.05 and not self._first:  # else it was all in the compiling
            return (s1 - s0) / (t1 - t0)
        return None

    def _tell(self, doing: str = "") -> None:
        if listeners := _listeners.get():
            (step, metrics), rate = self._last, self._rate()
            left = (self.total - step) / rate if rate and self.total else None
            status = Status(self.label, doing, step, self.total, self.unit, left, metrics)
            for listener in listeners:
                listener(status)

    def _line(self, step: int, metrics: dict[str, float]) -> str:
        text, rate = f"{self.label}: {step}/{self.total}", self._rate()
        if rate:
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


def silent(what: str, done: int, total: int) -> None:
    """A `Report` to nobody."""


class Steps:
    """Shows things that are done one after another, each with its progress; a `Report`.

        steps = Steps("mesh")
        steps("density", 0, 64); ...; steps("density", 64, 64)
        steps("unwrapping", 0, 0)
        steps.close()

    Args:
      label: what all of it makes.
      stream: where to print; stderr by default.
    """

    def __init__(self, label: str, stream: TextIO | io.TextIOBase | None = None):
        self._label, self._stream = label, stream
        self._what, self._progress = "", None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self.close()
            self._what = what
            self._progress = Progress(total, f"{self._label}: {what}", stream=self._stream)
            if not done:
                self._progress.say("")
                return
        if total and self._progress is not None:
            self._progress.update(done)

    def close(self) -> None:
        """Ends the line of the last thing."""
        if self._progress is not None and self._progress.worth_an_end():
            self._progress.close()
        self._what, self._progress = "", None


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
