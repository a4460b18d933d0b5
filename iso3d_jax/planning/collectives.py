"""What a compiled program sends between chips, read off its text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = dict(pred=1, s8=1, u8=1, bf16=2, f16=2, s16=2, u16=2, f32=4, s32=4, u32=4, f64=8, s64=8)


def collective_bytes(program: str, chips: int) -> dict[str, float]:
    """Bytes a chip sends by each kind of collective in a compiled program's text.

    A ring's: (n - 1) / n of the whole array for gathers, scatters and exchanges among n chips,
    twice that for reductions to all; a permutation sends what it has. Loops count by their number
    of rounds.
    """
    totals: dict[str, float] = {}
    for rounds, line in _lines_with_rounds(program):
        match = re.search(rf" = (.*?) ({'|'.join(_COLLECTIVES)})(-start)?\(([^)]*)", line)
        if match is None:
            continue
        shapes, kind, started, given = match.groups()
        sizes = [
            _BYTES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n)
            for dtype, dims in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes)
        ]
        if not sizes:
            continue
        n = 1 if kind == "collective-permute" else _group_size(line, chips)
        if started and kind != "all-reduce":  # what is asynchronous names its operands first
            count = max(1, given.count("%"))
            sizes = sizes[count : 2 * count]
        whole = sum(sizes) * (n if kind == "reduce-scatter" else 1)
        share = 1.0 if kind == "collective-permute" else (n - 1) / n
        factor = 2.0 if kind == "all-reduce" else 1.0
        totals[kind] = totals.get(kind, 0.0) + rounds * factor * share * whole
    return totals


def _lines_with_rounds(program: str):
    """(how often it runs, line) for every line of a program, loops unrolled in thought."""
    computation, lines, calls = "", [], {}
    for line in program.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header and not line.startswith(" "):
            computation = header.group(1)
        lines.append((computation, line))
        body = re.search(r"\bbody=%?([\w.\-]+)", line)
        if body:
            count = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
            calls[body.group(1)] = (computation, int(count.group(1)) if count else 1)

    def rounds(name):
        if name not in calls:
            return 1
        caller, count = calls[name]
        return count * rounds(caller)

    for name, line in lines:
        yield rounds(name), line


def _group_size(line: str, chips: int) -> int:
    """How many of the chips take part in a collective together."""
    if "replica_groups={}" in line:
        return chips
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return len(listed.group(1).split(","))
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    if counted:
        return int(counted.group(1))
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^{]*)? *\{([^}]*)\}", line
    )
    if named:  # mesh['a'=4,'b'=16], device_ids=([16,4]T(1,0)) {'a','b':(2)8}: along these axes
        sizes = {k: int(v) for k, v in re.findall(r"'(\w+)'=(\d+)", named.group(1))}
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named.group(2))  # :(2)8 is a part of one
        return math.prod(int(part) if part else sizes[axis] for axis, part in axes)
    groups = re.search(r"replica_groups=.*", line)
    written = (groups[0] if groups else line)[:200]
    raise ValueError(f"which chips take part is written in a way unknown here: {written}")


def foreign_gathers(program: str, weights: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Shapes of the arrays that all-gathers bring together and that are no weight.

    They would be activations. Compilers drop, add and merge dimensions, so an array counts as a
    weight if it has as many entries as one of `weights`, the shapes of all of them.
    """
    sizes = {math.prod(shape) for shape in weights}
    found = []
    for line in program.splitlines():
        match = re.search(r" = (.*?) all-gather(-start)?\(", line)
        if not match:
            continue
        arrays = re.findall(r"\b[a-z]+\d*\[([\d,]*)\]", match.group(1))
        if match.group(2):  # operands first, then results
            arrays = arrays[len(arrays) // 2 :]
        shapes = [tuple(int(n) for n in dims.split(",") if n) for dims in arrays]
        found += [shape for shape in shapes if math.prod(shape) not in sizes]
    return found
