"""A compiled program, read off its text: what runs how often, what it moves, and what is waste.

XLA's text has computations of instructions. What a chip is given one after another are the
instructions of the entry, of loops' bodies and of branches (a kernel each); those inside of a
fusion run within its kernel.
"""

from __future__ import annotations

import collections
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "c64": 8, "c128": 16, "token": 0, "opaque": 0}
# Names of things, which move nothing; loops and branches count by what is in them.
_NAMES = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while",
    "conditional", "call", "partition-id", "replica-id", "iota", "opt-barrier",
}  # fmt: skip
PRODUCTS = ("convolution", "dot")
_CUSTOM_PRODUCTS = re.compile(r"__cublas|__cudnn\$conv")


class Array(NamedTuple):
    """Of a result; `dims` without its layout. What is `near` is in a chip's own fast memory."""

    dtype: str
    dims: tuple[int, ...]
    near: bool = False

    @property
    def bytes(self) -> float:
        bits = re.fullmatch(r"[a-z](\d+)\w*", self.dtype)  # f8e4m3fn, s4
        size = int(bits.group(1)) / 8 if bits else 4
        return _BYTES.get(self.dtype, size) * math.prod(self.dims)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


class Instruction(NamedTuple):
    """One line: `%name = result kind(operands), attributes`."""

    name: str
    kind: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    source: str  # the package's file that asked for it, such as models/unet.py; '' if none did

    @property
    def bytes(self) -> float:
        """Of the result."""
        return sum(array.bytes for array in self.result)

    @property
    def far_bytes(self) -> float:
        """Of what of the result is in the large memory."""
        return sum(array.bytes for array in self.result if not array.near)

    def called(self, attribute: str) -> str:
        """The computation that an attribute names (`calls`, `body`), or ''."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else ""

    @property
    def custom(self) -> str:
        """What a custom call calls."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found.group(1) if found else ""


class Step(NamedTuple):
    """An instruction that a chip is given, and where."""

    instruction: Instruction
    computation: str
    times: int  # loops by their number of rounds, where it is known
    in_loop: bool
    optional: bool  # in a branch: where nothing needs it, another one is taken


class Inner(NamedTuple):
    """An instruction, and by name those that it stands among, of which its operands are."""

    instruction: Instruction
    around: dict[str, Instruction]


class CompiledText:
    """The text of `jax.stages.Compiled.as_text()`, taken apart.

    Attributes:
      computations: by name, their instructions by name, in order.
      entry: the name of the first to run.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        sources = _Sources(text)
        inside: dict[str, Instruction] = {}
        for line in text.splitlines():
            if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
                inside = self.computations.setdefault(header.group(2), {})
                self.entry = header.group(2) if header.group(1) else self.entry
            elif found := _read_line(line, sources):
                inside[found.name] = found
        if not self.entry:
            raise ValueError("this is no text of a compiled program: it has no entry")

    def steps(self) -> Iterator[Step]:
        """What a chip is given: all that is not inside of a fusion."""
        yield from self._steps(self.entry, 1, False, False)

    def _steps(self, name: str, times: int, in_loop: bool, optional: bool) -> Iterator[Step]:
        for instruction in self.computations.get(name, {}).values():
            yield Step(instruction, name, times, in_loop, optional)
            if instruction.kind == "while":
                count = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', instruction.attributes)
                rounds = int(count.group(1)) if count else 1
                yield from self._steps(instruction.called("body"), times * rounds, True, optional)
            elif instruction.kind == "call":
                yield from self._steps(instruction.called("to_apply"), times, in_loop, optional)
            elif instruction.kind == "conditional":
                for branch in _branches(instruction):
                    yield from self._steps(branch, times, in_loop, True)

    def inside(self, instruction: Instruction, computation: str) -> Iterator[Inner]:
        """What runs in an instruction's kernel: itself, and in a fusion all that is fused."""
        yield Inner(instruction, self.computations[computation])
        name = instruction.called("calls")
        for each in self.computations.get(name, {}).values():
            yield from self.inside(each, name)

    def traffic(self) -> float:
        """Bytes to and from memory of all kernels, as if nothing stayed in a cache.

        What a TPU has fetched into its own fast memory is not read a second time. Of what a fusion
        only slices, the slices count; of what it writes a slice into in place, the slice does. What
        runs asynchronously counts at its start.
        """
        return sum(step.times * self._moved(step) for step in self.steps())

    def optional_traffic(self) -> float:
        """Of `traffic` what is moved in branches, such as chunks of samples that may be empty."""
        return sum(step.times * self._moved(step) for step in self.steps() if step.optional)

    def traffic_by_file(self) -> dict[str, float]:
        """The same in gigabytes, by the package's file that asked for it, the most first; what no
        file did, by its kind."""
        found: dict[str, float] = collections.defaultdict(float)
        for step in self.steps():
            place = step.instruction.source or step.instruction.custom or step.instruction.kind
            found[place] += step.times * self._moved(step) / 1e9
        most_first = sorted(found.items(), key=lambda item: -item[1])
        return {place: round(gb, 4) for place, gb in most_first if gb >= 5e-5}

    def kernels(self) -> int:
        """How many kernels run, loops by their number of rounds."""
        return sum(step.times for step in self.steps() if _is_kernel(step.instruction.kind))

    def _moved(self, step: Step) -> float:
        instruction, around = step.instruction, self.computations[step.computation]
        kind = instruction.kind
        if not _is_kernel(kind):
            return 0.0
        operands = [around[name].far_bytes if name in around else 0.0
                    for name in instruction.operands]  # fmt: skip
        if kind == "dynamic-update-slice":
            return 2 * around[instruction.operands[1]].bytes
        written = instruction.far_bytes
        if kind.endswith("-start"):  # names operands, result and a counter; a copy's result first
            first = 0 if kind == "copy-start" else len(operands)
            new = instruction.result[first] if len(instruction.result) > first else None
            written = 0.0 if new is None or new.near else new.bytes
            if "slice" in kind and new is not None:
                return new.bytes + written
        elif kind in ("dynamic-slice", "slice", "gather"):
            return instruction.bytes * bool(operands[0]) + written
        if name := instruction.called("calls") if kind == "fusion" else "":
            read, written = self._fused_traffic(name, operands, written)
            return read + written
        return sum(operands) + written

    def _fused_traffic(self, name: str, operands: list[float], written: float):
        fused = self.computations.get(name, {})
        users: dict[str, list[Instruction]] = collections.defaultdict(list)
        for each in fused.values():
            for operand in each.operands:
                users[operand].append(each)
        read = 0.0
        for each in fused.values():
            if each.kind != "parameter":
                continue
            number = int(re.match(r"\d+", each.attributes).group())  # pyright: ignore
            whole = operands[number] if number < len(operands) else each.bytes
            read += min(whole, _read_of(each, users, fused))
        for each in fused.values():
            if each.kind == "dynamic-update-slice" and written >= each.bytes > 0:
                update = fused[each.operands[1]].bytes if each.operands[1] in fused else 0.0
                written += update - each.bytes
        return read, written


def _is_kernel(kind: str) -> bool:
    return kind not in _NAMES and not kind.endswith(("-done", "async-update"))


def _read_of(parameter: Instruction, users, fused) -> float:
    """Bytes that a fusion reads of a parameter."""
    total = 0.0
    for user in users[parameter.name]:
        if user.kind in ("dynamic-slice", "slice", "gather") and user.operands[0] == parameter.name:
            total += user.bytes
        elif user.kind == "dynamic-update-slice" and user.operands[0] == parameter.name:
            continue  # written in place
        elif user.kind == "bitcast":
            total += _read_of(user, users, fused)
        else:
            return parameter.bytes
    return min(total, parameter.bytes)


def _branches(instruction: Instruction) -> list[str]:
    if listed := re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes):
        return [name.strip().lstrip("%") for name in listed.group(1).split(",")]
    named = (instruction.called(f"{which}_computation") for which in ("true", "false"))
    return [name for name in named if name]


_LAYOUT = re.compile(r"(?<=\])\{[^{}]*?(S\(1\))?\}|/\*.*?\*/")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\w+\[[^\]]*\]~?) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](~?)")


def _read_line(line: str, sources: _Sources) -> Instruction | None:
    plain = _LAYOUT.sub(lambda found: "~" if found.group(1) else "", line)
    match = _LINE.match(plain) if " = " in line else None
    if match is None:
        return None
    name, result, kind, rest = match.groups()
    depth, end = 1, 0
    while end < len(rest) and depth:
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        end += 1
    given, attributes = rest[: end - 1], rest[end:]
    arrays = tuple(
        Array(dtype, tuple(int(n.lstrip("<=")) for n in dims.split(",") if n), bool(near))
        for dtype, dims, near in _ARRAY.findall(result)
    )
    operands = tuple(re.findall(r"%([\w.\-]+)", given))
    if kind == "parameter":
        attributes = given + attributes  # which one it is
    return Instruction(name, kind, arrays, operands, attributes, sources.find(attributes))


class _Sources:
    """The package's file that an instruction's metadata leads to: named there, or by the tables of
    frames that stand before the program."""

    def __init__(self, text: str):
        self._tables: dict[str, dict[int, str]] = collections.defaultdict(dict)
        table = ""
        for line in text.splitlines():
            if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
                table = line
            elif row := re.match(r"(\d+) (.*)$", line):
                self._tables[table][int(row.group(1))] = row.group(2)
            elif line.startswith(("%", "ENTRY")):
                break

    def find(self, attributes: str) -> str:
        if named := re.search(r'source_file="([^"]*)"', attributes):
            return _of_package(named.group(1))
        framed = re.search(r"stack_frame_id=(\d+)", attributes)
        return self._frame(int(framed.group(1))) if framed else ""

    @functools.cache  # noqa: B019, as many as the program has frames, and as long as it is read
    def _frame(self, number: int) -> str:
        frame = self._tables["StackFrames"].get(number, "")
        numbers = dict(re.findall(r"(\w+)=(\d+)", frame))
        place = self._tables["FileLocations"].get(int(numbers.get("file_location_id", 0)), "")
        file = re.search(r"file_name_id=(\d+)", place)
        name = self._tables["FileNames"].get(int(file.group(1)), "") if file else ""
        if found := _of_package(name):
            return found
        parent = int(numbers.get("parent_frame_id", 1)) - 1  # counted from one, where 0 is none
        return self._frame(parent) if 0 < parent < number else ""


def _of_package(path: str) -> str:
    found = re.search(r"iso3d_jax/((?!planning/)[\w/]+\.py)", path)
    return found.group(1) if found else ""


def find_waste(program: CompiledText, dtype: str) -> dict[str, list[dict]]:
    """What should not be in a program, each as {what, source, count, gb}; counts with loops.

    Returns:
      moves: kernels that only copy or transpose, or change a type, 1 MB and more;
      convolutions: those of them whose operand a convolution made, or whose result one takes;
      islands: products and convolutions with float32 operands in a program of another type;
      gathers: look-ups and scatters within a loop.
    """
    found = {
        kind: collections.Counter() for kind in ("moves", "convolutions", "islands", "gathers")
    }
    gigabytes: dict[str, dict] = {kind: collections.defaultdict(float) for kind in found}

    def note(kind: str, what: str, source: str, step: Step, size: float) -> None:
        found[kind][what, source] += step.times
        gigabytes[kind][what, source] += step.times * size / 1e9

    makers = _makers(program)
    for step in program.steps():
        instruction = step.instruction
        if not _is_kernel(instruction.kind):
            continue
        kernel = list(program.inside(instruction, step.computation))
        size = instruction.bytes
        if size >= _SMALL and _only_moves(kernel):
            what = f"{instruction.kind} {instruction.result[0]}"
            note("moves", what, instruction.source, step, 2 * size)
            near = {instruction.name, *instruction.operands}
            if near & makers[step.computation]:
                note("convolutions", what, instruction.source, step, 2 * size)
        for each, around in kernel:
            if dtype != "float32" and _is_product(each):
                kinds = [around[name].result[0] for name in each.operands[:2] if name in around]
                if kinds and all(array.dtype == "f32" for array in kinds):
                    what = f"{each.custom or each.kind} {' '.join(map(str, kinds))}"
                    note("islands", what, each.source or instruction.source, step, each.bytes)
            if step.in_loop and each.kind in ("gather", "scatter") and each.bytes >= _SMALL:
                what = f"{each.kind} {each.result[0]}"
                note("gathers", what, each.source or instruction.source, step, each.bytes)
    return {
        kind: [
            {"what": what, "source": source, "count": n, "gb": round(gigabytes[kind][key], 4)}
            for key, n in counted.most_common()
            for what, source in [key]
        ]
        for kind, counted in found.items()
    }


_SMALL = 1e6  # bytes: what is less is not worth a line
_MOVES = {"copy", "copy-start", "transpose", "convert"}
_BESIDE_MOVES = {"bitcast", "reshape", "parameter", "tuple", "get-tuple-element", "fusion"}


def _only_moves(kernel: list[Inner]) -> bool:
    kinds = {each.instruction.kind for each in kernel}
    return bool(kinds & _MOVES) and kinds <= _MOVES | _BESIDE_MOVES


def _is_product(instruction: Instruction) -> bool:
    return instruction.kind in PRODUCTS or bool(_CUSTOM_PRODUCTS.search(instruction.custom))


def _makers(program: CompiledText) -> dict[str, set[str]]:
    """By computation the names that a convolution takes or makes; through bitcasts, too."""
    out: dict[str, set[str]] = {}
    for name, instructions in program.computations.items():
        near: set[str] = set()
        for each in instructions.values():
            kernel = (one for one, _ in program.inside(each, name))
            if any(one.kind == "convolution" or "conv" in one.custom for one in kernel):
                near |= {each.name, *each.operands}
        for each in reversed(list(instructions.values())):
            if each.kind in ("bitcast", "get-tuple-element") and each.name in near:
                near |= set(each.operands)
        for each in instructions.values():
            if each.kind in ("bitcast", "get-tuple-element") and near & set(each.operands):
                near.add(each.name)
        out[name] = near
    return out
