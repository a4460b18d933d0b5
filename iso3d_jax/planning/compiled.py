"""Compiles every full-size program for machines that are not here, and reads what it does there.

    python -m iso3d_jax.planning.compiled --targets h100 --out compiled_h100.json
    python -m iso3d_jax.planning.compiled --targets v5e --programs sampling,SDS

The compiler is the machine's own: jax's CUDA plugin for NVIDIA's cards (`.[cuda]`), libtpu for TPUs
(`.[tpu]`); neither needs the device. `planning/lowering.py` says what is asked of it, this what it
made of that. For each program on one chip: operations, bytes to and from the large memory (and how
many are left where all branches are empty that can be, as chunks of unused samples), the bound
that the two set, memory; and what should not be there: kernels that only move or convert
(and how many of them stand at a convolution), float32 products in a bfloat16 program, look-ups
within loops. Under the table stands where the traffic comes from, by file. Loops whose number of
rounds is an argument, as distillation's, count as one round; steps of training are of 8 objects.

A program takes from seconds to some minutes of one core for a card, and for a TPU up to an hour.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iso3d_jax.commands import command_line
from iso3d_jax.core.chips import CHIPS, Chip
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.planning import absent, lowering

if TYPE_CHECKING:
    from iso3d_jax.planning.programs import Program

flags = command_line.flags_for(__name__)

_TARGETS = flags.DEFINE_list("targets", "h100,v5e", f"some of {', '.join(CHIPS)}")
_DTYPES = flags.DEFINE_list("dtypes", "bfloat16", "of networks and weights")
_PROGRAMS = flags.DEFINE_list("programs", None, "only programs whose name holds one of these")
_OUT = flags.DEFINE_string("out", None, "JSON file to write; programs that it has are not compiled")

SLICES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}  # the smallest that there are


def one_device(chip: Chip):
    """A device of a kind to compile for; UserError where its compiler is not installed."""
    return (absent.tpus(SLICES[chip.name]) if chip.platform == "tpu" else absent.gpus(chip.name))[0]


def compile_program(program: Program, chip: Chip, dtype: str) -> dict[str, Any]:
    """Compiles a program for a chip, from its arguments' shapes; the numbers of a table's row."""
    import jax

    from iso3d_jax.core import flops
    from iso3d_jax.planning import compiled_text

    one = one_device(chip)
    place = jax.sharding.SingleDeviceSharding(one)
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), program.arguments
    )
    began = time.monotonic()
    card = absent.CARDS.get(chip.name)
    target = lowering.Target(one.device_kind, chip.platform, card.capability if card else None)
    with lowering.tracing_for(target):
        traced = jax.jit(program.function, donate_argnums=program.donated).trace(*arguments)
        counted = flops.count(traced.jaxpr).executed
        compiled = absent.compile_lowered(traced.lower(), chip.platform)
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise RuntimeError("this compiler tells nothing of a program's memory and operations")
    read = compiled_text.CompiledText(text)
    moved = read.traffic()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "teraflops": counted / 1e12,
        "moved_gb": moved / 1e9,
        "optional_gb": read.optional_traffic() / 1e9,
        "arithmetic_ms": 1e3 * counted / chip.flops,
        "memory_ms": 1e3 * moved / chip.memory_bandwidth,
        "held_gb": (memory.argument_size_in_bytes + memory.temp_size_in_bytes + new) / 1e9,
        "kernels": read.kernels(),
        "by_file_gb": read.traffic_by_file(),
        **compiled_text.find_waste(read, dtype),
        "seconds": time.monotonic() - began,
    }


def compile_road(
    targets: list[str], dtypes: list[str], parts: list[str] | None = None,
    done: frozenset[tuple[str, str, str]] = frozenset(),
) -> Iterator[dict]:  # fmt: skip
    """A row for each program of the road, target and type; those in `done` are left out."""
    from iso3d_jax.planning import programs

    specs = programs.full_size_specs()
    for dtype in dtypes:
        for program in programs.road(specs, dtype):
            if parts and not any(part in program.name for part in parts):
                continue
            for name in targets:
                if (program.name, name, dtype) in done:
                    continue
                row = {"program": program.name, "target": name, "dtype": dtype}
                yield row | compile_program(program, CHIPS[name], dtype)


HEADER = """\
| program | for | type | TFLOP | GB moved (at the least) | bound, ms (arithmetic, memory) \
| GB held | kernels | only moves, GB | at convolutions | float32 products | look-ups in loops \
| s to compile |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def format_row(row: dict) -> str:
    """A row of the table, as Markdown."""

    def total(kind, what):
        return sum(found[what] for found in row[kind])

    times = (row["arithmetic_ms"], row["memory_ms"])
    least = row["moved_gb"] - row["optional_gb"]
    cells = (
        row["program"], row["target"], row["dtype"], f"{row['teraflops']:.3g}",
        f"{row['moved_gb']:.3g} ({least:.3g})",
        f"{max(times):.3g} ({times[0]:.3g}, {times[1]:.3g})",
        f"{row['held_gb']:.2f}", str(row["kernels"]),
        f"{total('moves', 'count')}, {total('moves', 'gb'):.3g}",
        str(total("convolutions", "count")), str(total("islands", "count")),
        str(total("gathers", "count")), f"{row['seconds']:.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def list_findings(row: dict, most: int = 4) -> Iterator[str]:
    """Lines under the table: the files that move most, and the largest of each kind of waste."""
    where = f"{row['program']} ({row['target']}, {row['dtype']})"
    files = list(row["by_file_gb"].items())[: 2 * most]
    yield f"{where}: GB by file: " + ", ".join(f"{name} {gb:.3g}" for name, gb in files)
    for kind in ("moves", "islands", "gathers"):
        for found in sorted(row[kind], key=lambda x: -x["gb"])[:most]:
            source = found["source"] or "the compiler's own"
            what = f"{found['count']} x {found['what']} [{source}]"
            yield f"{where}: {kind}: {what}, {found['gb']} GB"


def main(_argv):
    lowering.check_names(_TARGETS.value, CHIPS, _DTYPES.value)
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name in _TARGETS.value:
        one_device(CHIPS[name])  # says at once what is not installed
    rows = _read(_OUT.value)
    print(HEADER, flush=True)
    for row in rows:
        print(format_row(row), flush=True)
    done = frozenset((row["program"], row["target"], row["dtype"]) for row in rows)
    for row in compile_road(_TARGETS.value, _DTYPES.value, _PROGRAMS.value, done):
        print(format_row(row), flush=True)
        rows.append(row)
        _write(_OUT.value, rows)
    if not rows:
        raise UserError(f"--programs: no program's name holds {' or '.join(_PROGRAMS.value or [])}")
    for row in rows:
        print(*list_findings(row), sep="\n")


def _read(path: str | None) -> list[dict]:
    """The rows of an earlier run, which was perhaps stopped."""
    if path is None or not Path(path).is_file():
        return []
    from iso3d_jax.core.json_files import parse_json

    try:
        rows = parse_json(Path(path).read_bytes())
        for row in rows:
            format_row(row)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"--out: {path} is no table of this command ({shorten(error, 100)}); move it away, or "
            "give another name"
        ) from None
    return rows


def _write(path: str | None, rows: list[dict]) -> None:
    if path is not None:
        from iso3d_jax.core.files import atomic_path

        with atomic_path(Path(path)) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    command_line.run(main)
