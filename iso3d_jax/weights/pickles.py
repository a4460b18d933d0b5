"""Reads the pickle of a checkpoint as data: nothing is imported, called or changed by it.

Python's own unpickler calls what a file names. This one is a small machine of its own for the
opcodes that weights need. A name such as `torch._utils._rebuild_tensor_v2` becomes a `Name`, which
is only text; calling one gives a `Tensor` where it is PyTorch's way to write a tensor, a dict where
it is a kind of dict, and an `Inert` in all other cases: what trainers put beside the weights
(callbacks, hyperparameters, numbers of numpy) is there and means nothing. A file can so reach
nothing but values that this reader made for it.

Opcodes as in Python's `Lib/pickletools.py`; the tensors' calls as in `torch/_utils.py`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from iso3d_jax.core.errors import shorten

MAX_BYTES = 64 << 20  # of one pickle; the weights of a large model need 2 MB
MAX_STEPS = 2_000_000  # opcodes; the same model needs 100,000
MAX_NESTING = 200
MAX_AXES = 16
MAX_NAME = 256  # characters of a module and a name
MAX_INT = 1 << 62
EXPANDED = 1 << 20  # elements that a tensor may have beyond those of its storage, as `expand` makes

# Names by which pickles run code; no weights need them, so the file is not to be trusted.
_RUNS_CODE = frozenset(
    "os posix nt subprocess sys shutil socket importlib runpy pty ctypes code codeop pickle "
    "_pickle marshal".split()
)
_CALLS = frozenset(
    "eval exec execfile compile open __import__ getattr setattr delattr input breakpoint globals "
    "locals vars apply".split()
)
_DICTS = {
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("builtins", "dict"),
    ("__builtin__", "dict"),
}  # fmt: skip
_TENSORS = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
_PARAMETERS = {
    ("torch._utils", "_rebuild_parameter"), ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch.nn.parameter", "Parameter"), ("torch.nn", "Parameter"),
}  # fmt: skip


class PickleError(ValueError):
    """A pickle that is damaged, or asks for more than this reader has."""


class RunsCode(PickleError):
    """A pickle names what runs code; the message is a clause for the file's name to precede."""


class Name(NamedTuple):
    """A class or function that a pickle names; only the text."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Inert:
    """What a call gives that nobody here understands; `items` if the pickle sets some by key."""

    __slots__ = ("items",)

    def __init__(self):
        self.items: dict[Any, Any] = {}


class Storage(NamedTuple):
    """The numbers behind tensors: the name of their type, the storage's key, how many."""

    kind: str
    key: str
    count: int


class Tensor(NamedTuple):
    """A view of a storage, in elements; `dtype` is the type's name where the storage has none."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str | None


class _Tuple(tuple):
    """A tuple that knows how deep it is nested."""

    depth: int


class Pickle(NamedTuple):
    """What a pickle holds: its value, of Python's plain types and those above; the place after its
    last byte; and the types of all storages that it names, by key."""

    value: Any
    end: int
    storages: dict[str, str]


def load_pickle(data, start: int = 0) -> Pickle:
    """Reads one pickle.

    Args:
      data: bytes, or a map of a file.
      start: where the pickle begins.

    Raises:
      PickleError: damaged, an opcode that weights do not need, or larger than any weights' pickle.
      RunsCode: it names something that runs code.
    """
    return _Machine(data, start).run()


class _Machine:
    """The stack, the memo and the place in the data."""

    def __init__(self, data, start: int):
        self.data, self.at = data, start
        self.end = min(len(data), start + MAX_BYTES)
        self.steps = MAX_STEPS
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, str] = {}

    def run(self) -> Pickle:
        opcodes, data = _OPCODES, self.data
        while True:
            self.spend(1)
            if self.at >= self.end:
                self.take(1)  # says which end it is
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                return Pickle(self.pop(), self.at, self.storages)
            act = opcodes.get(code)
            if act is None:
                raise PickleError(f"opcode {code:#04x} at byte {self.at - 1} is none of weights'")
            act(self)

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise PickleError(f"its structure needs more than {MAX_STEPS} steps")

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > self.end:
            if self.end < len(self.data):
                raise PickleError(f"its structure is larger than {MAX_BYTES >> 20} MB")
            raise PickleError("its structure is cut short")
        raw = self.data[self.at : end]
        self.at = end
        return raw

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, min(self.end, self.at + MAX_NAME + 1))
        if end < 0:
            raise PickleError("a name is cut short or too long")
        raw = self.take(end - self.at + 1)
        return _text(raw[:-1])

    def push(self, value) -> None:
        self.stack.append(value)

    def pop(self):
        if not self.stack or (self.marks and self.marks[-1] >= len(self.stack)):
            raise PickleError("its stack is empty")
        return self.stack.pop()

    def top(self):
        if not self.stack or (self.marks and self.marks[-1] >= len(self.stack)):
            raise PickleError("its stack is empty")
        return self.stack[-1]

    def since_mark(self) -> list:
        if not self.marks:
            raise PickleError("a mark is missing")
        begin = self.marks.pop()
        values = self.stack[begin:]
        del self.stack[begin:]
        return values

    def mark(self) -> None:
        if len(self.marks) >= MAX_NESTING:
            raise PickleError("its structure is nested too deep")
        self.marks.append(len(self.stack))

    def pop_any(self) -> None:
        """POP takes a mark away where one is on top."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def tuple(self, values: list) -> None:
        depth = 1 + max((v.depth for v in values if type(v) is _Tuple), default=0)
        if depth > MAX_NESTING:
            raise PickleError("its structure is nested too deep")
        made = _Tuple(values)
        made.depth = depth
        self.push(made)

    def last(self, count: int) -> list:
        values = [self.pop() for _ in range(count)]
        return values[::-1]

    def remember(self, index: int) -> None:
        if index > MAX_STEPS:
            raise PickleError(f"a place {index} in its memo is out of range")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError(f"nothing is at {index} in its memo")
        self.push(self.memo[index])

    def name(self, module, name) -> None:
        if type(module) is not str or type(name) is not str:
            raise PickleError("a name is no text")
        if len(module) + len(name) > MAX_NAME:
            raise PickleError("a name is too long")
        called = module in ("builtins", "__builtin__") and name in _CALLS
        if called or module.partition(".")[0] in _RUNS_CODE:
            raise RunsCode(
                f"its pickle asks for '{shorten(f'{module}.{name}')}', which no weights need and "
                "which runs code; get the weights as .safetensors instead"
            )
        self.push(Name(module, name))

    def set_items(self, values: list) -> None:
        if len(values) % 2:
            raise PickleError("a key has no value")
        target = self.top()
        if type(target) is Inert:
            target = target.items
        if type(target) is not dict:
            raise PickleError(f"items are set on a {_kind(target)}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            _put(target, key, value)

    def append(self, values: list) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(values)
        elif type(target) is not Inert:
            raise PickleError(f"a {_kind(target)} is appended to")

    def call(self, function, args) -> None:
        """REDUCE and NEWOBJ."""
        if type(function) is not Name or type(args) is not _Tuple:
            raise PickleError(f"a {_kind(function)} is called")
        self.push(self.result(function, args))

    def result(self, function: Name, args: _Tuple):
        if function in _DICTS:
            return self.dict_of(args)
        if function.module == "torch._utils" and function.name in _TENSORS:
            return _tensor(args)
        if function in _PARAMETERS:
            return args[0] if args else Inert()
        if function == ("torch._tensor", "_rebuild_from_type_v2"):
            inner = args[0] if args else None
            if type(inner) is Name and inner.name in _TENSORS and len(args) > 2:
                if type(args[2]) is _Tuple:
                    return _tensor(args[2])
        return Inert()

    def dict_of(self, args: _Tuple) -> dict:
        """A dict from nothing, from pairs, or from what makes its missing values."""
        made: dict = {}
        pairs = args[0] if args and type(args[0]) is list else []
        self.spend(len(pairs))
        for pair in pairs:
            if type(pair) not in (list, _Tuple) or len(pair) != 2:
                raise PickleError("a dict is made of what is no pairs")
            _put(made, pair[0], pair[1])
        return made

    def build(self) -> None:
        """BUILD: attributes, which only what is inert may have.

        A module's state dict has one, `_metadata`, which says nothing of weights.
        """
        state, target = self.pop(), self.top()
        if type(target) is dict and type(state) is dict and _only(state, "_metadata"):
            return
        if type(target) is not Inert:
            raise PickleError(f"a {_kind(target)} is given attributes")

    def storage(self) -> None:
        """BINPERSID: ('storage', type, key, device, elements[, view])."""
        pid = self.pop()
        if type(pid) is not _Tuple or pid[:1] != ("storage",) or len(pid) not in (5, 6):
            raise PickleError("an unknown kind of persistent object")
        if pid[5:] not in ((), (None,)):
            raise PickleError("a storage is a view of another")
        kind, key, count = pid[1], pid[2], pid[4]
        if type(kind) is not Name or kind.module not in ("torch", "torch.storage"):
            raise PickleError("a storage has no type")
        if type(key) is not str or type(count) is not int or not 0 <= count < MAX_INT:
            raise PickleError("a storage has an impossible size")
        self.storages[key] = kind.name
        self.push(Storage(kind.name, key, count))

    def long(self, count: int) -> None:
        if not 0 <= count <= 64:
            raise PickleError("a number is too long")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def text(self, count: int) -> None:
        self.push(_text(self.take(count)))

    def bytes(self, count: int) -> None:
        self.push(self.take(count))


def _only(state: dict, key: str) -> bool:
    return len(state) == 1 and key in state


def _kind(value) -> str:
    """What a value is, for a message."""
    ours = {_Tuple: "tuple", Name: "name", Inert: "object", Storage: "storage", Tensor: "tensor"}
    return ours.get(type(value), type(value).__name__)


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return raw.decode("latin-1")  # of Python 2


def _put(target: dict, key, value) -> None:
    """Sets an item; a key whose hash a file could choose is left out, with what is under it."""
    if type(key) is str or type(key) is int and abs(key) < MAX_INT:
        target[key] = value


def _tensor(args: _Tuple) -> Tensor:
    """torch._utils._rebuild_tensor, _v2 and _v3, whose seventh argument is the type."""
    if len(args) < 4 or type(args[0]) is not Storage:
        raise PickleError("a tensor has no storage")
    storage, offset, size, stride = args[:4]
    fits = type(size) is _Tuple and type(stride) is _Tuple and len(size) == len(stride) <= MAX_AXES
    if not fits or not all(type(n) is int and 0 <= n < MAX_INT for n in (offset, *size, *stride)):
        raise PickleError("a tensor has an impossible shape")
    dtype = str(args[6].name) if len(args) > 6 and type(args[6]) is Name else None
    if dtype is None:  # of a storage of bytes, it is counted in elements that are not known here
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if 0 not in size and last >= storage.count:
            raise PickleError("a tensor reaches outside its storage")
        if 0 not in size and math.prod(size) > max(storage.count, EXPANDED):
            raise PickleError("a tensor has more elements than its storage")
    return Tensor(storage, offset, tuple(size), tuple(stride), dtype)


_STOP = ord(".")
_OPCODES: dict[int, Callable[[_Machine], None]] = {
    ord(code): act
    for code, act in {
        "\x80": lambda m: m.take(1),  # PROTO
        "\x95": lambda m: m.take(8),  # FRAME
        "(": lambda m: m.mark(),
        "0": lambda m: m.pop_any(),
        "1": lambda m: m.since_mark(),  # POP_MARK
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "J": lambda m: m.push(m.number("<i")),
        "K": lambda m: m.push(m.number("<B")),
        "M": lambda m: m.push(m.number("<H")),
        "\x8a": lambda m: m.long(m.number("<B")),
        "\x8b": lambda m: m.long(m.number("<i")),
        "G": lambda m: m.push(m.number(">d")),
        "X": lambda m: m.text(m.number("<I")),
        "\x8c": lambda m: m.text(m.number("<B")),
        "\x8d": lambda m: m.text(m.number("<Q")),
        "U": lambda m: m.text(m.number("<B")),  # SHORT_BINSTRING, of Python 2
        "T": lambda m: m.text(m.number("<I")),
        "C": lambda m: m.bytes(m.number("<B")),
        "B": lambda m: m.bytes(m.number("<I")),
        "\x8e": lambda m: m.bytes(m.number("<Q")),
        "\x96": lambda m: m.bytes(m.number("<Q")),  # BYTEARRAY8
        ")": lambda m: m.tuple([]),
        "t": lambda m: m.tuple(m.since_mark()),
        "\x85": lambda m: m.tuple(m.last(1)),
        "\x86": lambda m: m.tuple(m.last(2)),
        "\x87": lambda m: m.tuple(m.last(3)),
        "]": lambda m: m.push([]),
        "l": lambda m: m.push(m.since_mark()),
        "a": lambda m: m.append(m.last(1)),
        "e": lambda m: m.append(m.since_mark()),
        "}": lambda m: m.push({}),
        "d": lambda m: _dict(m, m.since_mark()),
        "s": lambda m: m.set_items(m.last(2)),
        "u": lambda m: m.set_items(m.since_mark()),
        "\x8f": lambda m: m.push(Inert()),  # EMPTY_SET
        "\x90": lambda m: m.append(m.since_mark()),  # ADDITEMS
        "\x91": lambda m: _frozenset(m, m.since_mark()),
        "q": lambda m: m.remember(m.number("<B")),
        "r": lambda m: m.remember(m.number("<I")),
        "\x94": lambda m: m.remember(len(m.memo)),  # MEMOIZE
        "h": lambda m: m.recall(m.number("<B")),
        "j": lambda m: m.recall(m.number("<I")),
        "c": lambda m: m.name(m.line(), m.line()),
        "\x93": lambda m: m.name(*m.last(2)),  # STACK_GLOBAL
        "R": lambda m: m.call(*m.last(2)),
        "\x81": lambda m: m.call(*m.last(2)),  # NEWOBJ
        "\x92": lambda m: m.call(*m.last(3)[:2]),  # NEWOBJ_EX
        "b": lambda m: m.build(),
        "Q": lambda m: m.storage(),
    }.items()
}


def _dict(machine: _Machine, values: list) -> None:
    machine.push({})
    machine.set_items(values)


def _frozenset(machine: _Machine, values: list) -> None:
    del values
    machine.push(Inert())
