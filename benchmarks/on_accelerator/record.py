"""What a measuring run found, as a file that is whole after every figure, and as Markdown."""

import contextlib
import gc
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from iso3d_jax.core.files import atomic_path

# A part's state in the file.
DONE, FAILED, LEFT_OUT, RUNNING, DIED = "done", "failed", "left out", "running", "died"


def first_line(error: BaseException) -> str:
    """An error's kind and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def plain(value):
    """A figure as JSON has it: four digits; what is not finite as a word."""
    if isinstance(value, str | bool | int) or value is None:
        return value
    value = float(value)
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)


class Record:
    """The file of a run. A part has rows, a row has columns: all figures are two names deep.

    Args:
      path: JSON, written anew after each row.
      facts: what stands above the parts: device, versions, command.
      seconds: what the run may take in all; counted from here.
      stream: where a line a row is printed; stdout if None.
    """

    def __init__(self, path: Path, facts: dict, seconds: float, stream=None):
        self.path, self.stream = path, stream or sys.stdout
        self.data = facts | {"seconds": seconds, "parts": {}}
        self._began, self._seconds, self._part = time.monotonic(), seconds, ""

    def resume(self) -> None:
        """Takes over the parts of the file that is there; one that was running then has died."""
        if not self.path.is_file():
            return
        parts = json.loads(self.path.read_text())["parts"]
        for part in parts.values():
            if part["state"] == RUNNING:
                part["state"] = DIED
        # What was left out for want of time may have it now.
        self.data["parts"] = {k: v for k, v in parts.items() if v["state"] != LEFT_OUT}

    def left(self) -> float:
        """Seconds that the run still has."""
        return self._seconds - (time.monotonic() - self._began)

    def run(self, name: str, part: Callable[[], None], needs: float) -> None:
        """Runs a part and notes how it ended; what it raises ends nothing but the part.

        Args:
          needs: seconds below which it is not begun.
        """
        if self.left() < needs:
            reason = f"{self.left():.0f} s were left, it takes {needs:.0f} s"
            self.data["parts"][name] = {"state": LEFT_OUT, "reason": reason, "rows": {}}
            self._say(f"{name}: left out: {reason}")
            self.save()
            return
        began, self._part = time.monotonic(), name
        entry = self.data["parts"][name] = {"state": RUNNING, "rows": {}}
        self.save()
        try:
            part()
            entry["state"] = DONE
        except Exception as error:
            entry |= {"state": FAILED, "error": first_line(error)}
        gc.collect()
        entry["seconds"] = plain(time.monotonic() - began)
        entry |= memory_gb()
        self.save()
        self._say(f"{name}: {entry['state']} in {entry['seconds']:.1f} s {entry.get('error', '')}")

    def row(self, name: str, /, **columns) -> None:
        """Figures of the part that runs; a name given twice keeps its other columns."""
        row = self.data["parts"][self._part]["rows"].setdefault(name, {})
        row |= {key: plain(value) for key, value in columns.items()}
        self.save()
        shown = ", ".join(f"{key} {row[key]}" for key in columns)
        self._say(f"  {self._part} | {name}: {shown}")

    def failed(self, name: str, error: Exception) -> None:
        """A row that could not be measured."""
        self.row(name, error=first_line(error))

    @contextlib.contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """What is raised within becomes the row's error."""
        try:
            yield
        except Exception as error:
            self.failed(name, error)

    def save(self) -> None:
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.data, indent=2, allow_nan=False) + "\n")

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


def memory_gb() -> dict:
    """Device memory in use, and the most since the process began; nothing where it is not told."""
    stats = jax.local_devices()[0].memory_stats() or {}
    names = {"in_use_gb": "bytes_in_use", "most_so_far_gb": "peak_bytes_in_use"}
    return {name: plain(stats[key] / 1e9) for name, key in names.items() if key in stats}


def markdown(data: dict) -> str:
    """A run's file as Markdown: what ran where, then a table for each part."""
    parts = data["parts"]
    facts = {key: value for key, value in data.items() if key != "parts"}
    lines = [f"# {data.get('device', 'unknown device')}", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    for name, part in parts.items():
        told = [f"{k} {v}" for k, v in part.items() if k not in ("rows", "state")]
        lines += ["", f"## {name}: {', '.join([part['state'], *told])}"]
        columns = list(dict.fromkeys(key for row in part["rows"].values() for key in row))
        if not columns:
            continue
        lines += ["", _line([name, *columns]), _line(["---"] * (len(columns) + 1))]
        for row, values in part["rows"].items():
            lines.append(_line([row, *(values.get(column, "") for column in columns)]))
    return "\n".join(lines)


def _line(cells: list) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
