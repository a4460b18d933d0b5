"""Lowers every full-size program for machines that are not here, and lists what would be slow.

    python -m iso3d_jax.planning.lowering                     # all programs, platforms and types
    python -m iso3d_jax.planning.lowering --targets h100 --dtypes bfloat16 --programs "step of"

Lowering goes as far as a program can be taken without the machine's own compiler: kernels are
chosen and checked, types and layouts are settled, nothing is compiled. The table says for each
program its operations (of one iteration of distillation, of 8 objects in a step of training), which
fused kernels it holds and its convolutions by type; under it stands what falls back
to a slow path, with the file that it comes from: attention that writes its scores to memory,
products and convolutions in float32 within a bfloat16 program, transposes around a convolution.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import math
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from iso3d_jax.commands import command_line
from iso3d_jax.core.errors import UserError
from iso3d_jax.planning import absent

flags = command_line.flags_for(__name__)

_TARGETS = flags.DEFINE_list("targets", None, "some of a100, h100, tpu; all if left out")
_DTYPES = flags.DEFINE_list("dtypes", "bfloat16,float32", "of networks and weights")
_PROGRAMS = flags.DEFINE_list("programs", None, "only programs whose name holds one of these")
_OUT = flags.DEFINE_string("out", None, "JSON file to write")

SCORES = 1 << 22  # numbers: an attention whose scores are fewer is small


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine to lower for; `capability` is an NVIDIA GPU's, `platform` is jax.export's."""

    device_kind: str
    platform: str
    capability: tuple[int, int] | None = None


TARGETS = {
    name: Target(card.name, "cuda", card.capability)
    for name, card in absent.CARDS.items()
    if name != "h200"  # the same programs as for an H100
} | {"tpu": Target("TPU v5 lite", "tpu")}


@contextlib.contextmanager
def tracing_for(target: Target) -> Iterator[None]:
    """Within it programs are traced for a machine that is not here.

    The mesh of one abstract device is part of what jax keeps traces by, so that nothing traced for
    this machine is used for that one.
    """
    import jax
    from jax.sharding import AbstractDevice, AbstractMesh, AxisType

    from iso3d_jax.training import sharding

    kind = {"cuda": "gpu"}.get(target.platform, target.platform)
    device = AbstractDevice(device_kind=target.device_kind, num_cores=None, platform=kind)
    axes = sharding.AXES
    mesh = AbstractMesh(
        (1,) * len(axes), axes, axis_types=(AxisType.Auto,) * len(axes), abstract_device=device
    )

    with absent.cudnn_of(target.capability), jax.sharding.use_abstract_mesh(mesh):
        yield


def lower(function, arguments: tuple, target: Target) -> str:
    """The StableHLO text of a function of arrays for a target, from its arguments' shapes."""
    return lower_and_count(function, arguments, target)[0]


def lower_and_count(function, arguments: tuple, target: Target) -> tuple[str, float]:
    """`lower`, and the operations of its matrix products, convolutions and attention.

    A loop whose number of turns is an argument, as distillation's, counts as one turn.
    """
    import jax
    from jax.export import DisabledSafetyCheck

    from iso3d_jax.core import flops

    kernels = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward", "tpu_custom_call")
    with tracing_for(target):
        jitted = jax.jit(function)
        counted = flops.count(jitted.trace(*arguments).jaxpr)
        exported = jax.export.export(
            jitted,
            platforms=[target.platform],
            disabled_checks=[DisabledSafetyCheck.custom_call(name) for name in kernels],
        )(*arguments)
    return exported.mlir_module(), counted.executed


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of StableHLO: its name, operands and their types, result type, location."""

    name: str
    operands: tuple[str, ...]
    types: tuple[str, ...]
    result: str
    location: str


_FUNCTION = re.compile(r"func\.func (?:public|private) @(\"[^\"]*\"|[\w.$-]+)\(")
_CALL = re.compile(r"\bcall @(\"[^\"]*\"|[\w.$-]+)\(")
_LINE = re.compile(r"^\s*(%[\w#:]+) = (?:\"?stablehlo\.|call )(\w+)\"?(.*?)(?: loc\((#?\w+)\))?$")
_CUSTOM = re.compile(r"@([\w$.]+)\(")
_TENSOR = re.compile(r"tensor<([^>]*)>")


def times_called(text: str) -> dict[str, int]:
    """How often each function of a module is called from `main`, through others too.

    Equal parts of a program are one function that is called several times.
    """
    calls: dict[str, collections.Counter] = {}
    inside = ""
    for line in text.splitlines():
        if function := _FUNCTION.search(line):
            inside = function.group(1)
            calls[inside] = collections.Counter()
        elif call := _CALL.search(line):
            calls[inside][call.group(1)] += 1
    times: collections.Counter = collections.Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for callee, number in calls[name].items():
            visit(callee, count * number)

    visit("main", 1)
    return dict(times)


def operations(text: str) -> Iterator[tuple[Operation, dict[str, Operation], int]]:
    """Each operation of a module, what its function has defined before it by name, and how often
    that function is called."""
    times = times_called(text)
    defined: dict[str, Operation] = {}
    count = 0
    for line in text.splitlines():
        if function := _FUNCTION.search(line):
            defined, count = {}, times.get(function.group(1), 0)
        match = _LINE.match(line)
        if not match:
            continue
        result, name, rest, location = match.groups()
        if name == "custom_call" and (custom := _CUSTOM.search(rest)):
            name = custom.group(1)
        left, _, types = rest.rpartition(" : ")
        inputs, _, output = types.rpartition("->")
        tensors = tuple(_TENSOR.findall(inputs or types))
        operation = Operation(
            name, tuple(re.findall(r"%[\w#]+", left)), tensors,
            (_TENSOR.findall(output or types) or [""])[0], location or "",
        )  # fmt: skip
        yield operation, defined, count
        defined[result.partition(":")[0]] = operation


def _locations(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", text, re.MULTILINE))


def find_source(location: str, table: dict[str, str]) -> str:
    """The package's file that an operation comes from, such as 'models/clip.py'; '' if none is."""
    seen, queue = set(), [location]
    while queue:  # breadth first: the innermost frame is the nearest
        name = queue.pop(0)
        text = table.get(name, "")
        if found := re.search(r"iso3d_jax/([\w/]+\.py)", text):
            return found.group(1)
        for other in re.findall(r"#loc\d+", text):
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return ""


def _size(tensor: str) -> int:
    return math.prod(int(n) for n in tensor.split("x")[:-1])


def examine(text: str, dtype: str) -> dict:
    """What a lowered program holds.

    Returns:
      fused: {kernel: count}; convolutions: {type: count}; and lists of {what, source, count}:
      scores, attention that writes more than `SCORES` numbers to memory; islands, products and
      convolutions with float32 operands in a program of another type; transposes, of what goes
      into or comes out of a convolution.
    """
    fused, convolutions = collections.Counter(), collections.Counter()
    slow = {name: collections.Counter() for name in ("scores", "islands", "transposes")}
    table = _locations(text)
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    for operation, defined, times in operations(text):
        name = operation.name

        def note(kind, what, operation=operation, times=times):
            slow[kind][what, find_source(operation.location, table)] += times

        if name.startswith("__cudnn$") or name == "tpu_custom_call":
            fused[name] += times
        if name == "exponential":
            before = defined.get(operation.operands[0])
            shifted = before is not None and before.name == "subtract"  # of the rows' maxima
            if shifted and operation.result.count("x") > 2 and _size(operation.result) >= SCORES:
                note("scores", operation.result)
        if name in ("convolution", "dot_general"):
            kinds = {tensor.rpartition("x")[2] for tensor in operation.types}
            if name == "convolution":
                convolutions["+".join(sorted(kinds))] += times
                for operand in operation.operands:
                    before = defined.get(operand)
                    if before is not None and before.name == "transpose":
                        note("transposes", f"into {operation.result}")
            if short != "f32" and "f32" in kinds:
                note("islands", f"{name} {' '.join(operation.types)}")
        if name == "transpose":
            before = defined.get(operation.operands[0])
            if before is not None and before.name == "convolution":
                note("transposes", f"of {before.result}")
    listed = {
        kind: [
            {"what": what, "source": source, "count": count}
            for (what, source), count in sorted(found.items())
        ]
        for kind, found in slow.items()
    }
    return {"fused": dict(fused), "convolutions": dict(convolutions), **listed}


def lower_road(
    targets: list[str], dtypes: list[str], parts: list[str] | None = None
) -> Iterator[dict]:
    """Lowers the road's programs; a row for each program, target and type.

    Only those whose name holds one of `parts`, where there are any. What a capability does not
    change, float32, is lowered for one of the GPUs only.
    """
    from iso3d_jax.planning import programs

    specs = programs.full_size_specs()
    for dtype in dtypes:
        gpus = [name for name in targets if TARGETS[name].platform == "cuda"]
        left_out = gpus[1:] if dtype == "float32" else []
        for program in programs.road(specs, dtype):
            if parts and not any(part in program.name for part in parts):
                continue
            for name in targets:
                if name in left_out:
                    continue
                begin = time.monotonic()
                text, flops = lower_and_count(program.function, program.arguments, TARGETS[name])
                row: dict[str, Any] = {"program": program.name, "target": name, "dtype": dtype}
                row["teraflops"] = flops / 1e12
                yield row | examine(text, dtype) | {"seconds": time.monotonic() - begin}


def format_row(row: dict) -> str:
    """A row of the table, as Markdown."""
    fused = ", ".join(f"{count} {name.strip('_')}" for name, count in row["fused"].items())
    convolutions = ", ".join(f"{count} {kind}" for kind, count in row["convolutions"].items())
    counts = (sum(x["count"] for x in row[k]) for k in ("scores", "islands", "transposes"))
    cells = (
        row["program"], row["target"], row["dtype"], f"{row['teraflops']:.3g}", fused or "none",
        convolutions or "none", *map(str, counts), f"{row['seconds']:.1f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


HEADER = """\
| program | for | type | TFLOP | fused attention | convolutions | large scores | \
float32 products | transposes at convolutions | s to lower |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def check_names(targets: Iterable[str], machines: Iterable[str], dtypes: Iterable[str]) -> None:
    """Refuses a name given as --targets or --dtypes that is none; UserError."""
    for flag, given, known in (
        ("targets", targets, machines), ("dtypes", dtypes, ("float32", "bfloat16")),
    ):  # fmt: skip
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"--{flag}: '{unknown[0]}' is none of {', '.join(known)}")


def main(_argv):
    targets = _TARGETS.value or list(TARGETS)
    check_names(targets, TARGETS, _DTYPES.value)
    print(HEADER, flush=True)
    rows = []
    for row in lower_road(targets, _DTYPES.value, _PROGRAMS.value):
        print(format_row(row), flush=True)
        rows.append(row)
    if not rows:
        raise UserError(f"--programs: no program's name holds {' or '.join(_PROGRAMS.value or [])}")
    slow: dict[tuple, list] = collections.defaultdict(list)
    for row in rows:
        for kind in ("scores", "islands", "transposes"):
            for found in row[kind]:
                key = (kind, found["source"], found["what"])
                slow[key].append(f"{row['program']} ({row['target']}, {row['dtype']})")
    for (kind, source, what), where in sorted(slow.items()):
        more = f" and {len(where) - 1} more" if len(where) > 1 else ""
        print(f"{kind}: {what} [{source}] in {where[0]}{more}")
    if _OUT.value:
        from iso3d_jax.core.files import atomic_path

        with atomic_path(Path(_OUT.value)) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    command_line.run(main)
