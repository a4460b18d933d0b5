"""The faults that mutation testing puts into a module, one at a time.

A fault is a replacement of one piece of the source by another, as a programmer's slip would make
it: a sign, a comparison, a number, an order of arguments, a forgotten keyword or statement. What
no test should look at is left alone: docstrings, annotations, decorators, assertions, the text of
errors, and calls that only show something to the user.
"""

import ast
import dataclasses
from collections import Counter
from collections.abc import Iterator

BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.Mod: ast.FloorDiv,
}  # fmt: skip
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
PAIRS = [
    ("sin", "cos"), ("minimum", "maximum"), ("min", "max"), ("floor", "ceil"), ("zeros", "ones"),
    ("zeros_like", "ones_like"), ("any", "all"), ("argmin", "argmax"), ("sum", "mean"),
    ("radians", "degrees"), ("floor", "round"), ("exp", "log"), ("stack", "concatenate"),
]  # fmt: skip
SAME_NAME = {name: other for pair in PAIRS for name, other in (pair, pair[::-1])}
SHOWN_ONLY = {
    "print", "doing", "warn", "warning", "info", "debug", "error", "log_text", "say", "note",
    "Steps", "dtype_note", "UserError", "ValueError", "TypeError", "KeyError",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault: `source[start:end]` (characters) of `path` replaced by `text`."""

    path: str
    function: str
    line: int
    kind: str
    start: int
    end: int
    before: str
    text: str
    nth: int = 1  # of equal faults in the same function

    @property
    def name(self) -> str:
        """Says the fault without a line number, so that edits elsewhere do not rename it."""
        before, after = (" ".join(part.split()) for part in (self.before, self.text))
        which = f" ({self.nth})" if self.nth > 1 else ""
        return f"{self.path} {self.function}: `{before}` -> `{after}`{which}"

    def applied(self, source: str) -> str:
        """The module's source with the fault in it."""
        return source[: self.start] + self.text + source[self.end :]


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Every fault that can be put into a module, in the order of its lines.

    Args:
      path: where the module is, as the faults' names will say it.
      source: its text.
    """
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def at(line: int, column: int) -> int:  # ast counts columns in bytes
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    found = []
    for node, function, kind, text in _walk(ast.parse(source), ""):
        start, end = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
        before = source[start:end]
        found.append(Mutant(path, function, node.lineno, kind, start, end, before, text))
    unique = {(one.start, one.end, one.text): one for one in found}
    seen, numbered = Counter(), []
    for key in sorted(unique):
        one = unique[key]
        seen[one.name] += 1
        numbered.append(dataclasses.replace(one, nth=seen[one.name]))
    return numbered


def _walk(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str, str, str]]:
    """(node to replace, function it is in, kind, new text), for everything below `node`."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    if isinstance(node, ast.Assert | ast.Raise | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.Call) and _called(node) in SHOWN_ONLY:
        return
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name | ast.Call | ast.Attribute):
        yield node.test, function, "condition turned", f"(not {ast.unparse(node.test)})"
    if isinstance(node, ast.stmt):
        yield from ((node, function, kind, text) for kind, text in _statement(node))
    if isinstance(node, ast.expr):
        for kind, new in _expression(node):
            text = ast.unparse(ast.fix_missing_locations(new))
            bare = isinstance(new, ast.Call | ast.Constant | ast.Name | ast.Attribute)
            yield node, function, kind, text if bare else f"({text})"
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "format_spec"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield from _walk(child, function)


def _called(node: ast.Call) -> str:
    """The last name of what is called: "sin" for `jnp.sin(x)`."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _statement(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Statements forgotten: a call for its effect, an addition, a second value for a name."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        if _called(node.value) not in SHOWN_ONLY:
            yield "statement forgotten", "pass"
    elif isinstance(node, ast.AugAssign):
        yield "statement forgotten", "pass"
    elif isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        read = {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
        if isinstance(target, ast.Name) and target.id in read:
            yield "statement forgotten", "pass"


def _expression(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Everything that one expression can be mistaken for."""
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        if not (_is_text(node.left) or _is_text(node.right)):
            yield "arithmetic", ast.BinOp(node.left, BINARY[type(node.op)](), node.right)
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        for other in COMPARISONS[type(node.ops[0])]:
            yield "comparison", ast.Compare(node.left, [other(), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and, or", ast.BoolOp(other, node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "sign", node.operand
    elif isinstance(node, ast.IfExp):
        yield "choice swapped", ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Constant):
        yield from (("number", ast.Constant(value)) for value in _other_numbers(node.value))
    elif isinstance(node, ast.Call):
        yield from _call(node)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _other_numbers(value) -> list:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    if isinstance(value, float):
        return [value * 1.5 if value else 1.0]
    return []


def _call(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """A neighbour called instead, a keyword forgotten, two arguments in the other order."""
    name = _called(node)
    if name in SAME_NAME:
        other = SAME_NAME[name]
        called = (
            ast.Attribute(node.func.value, other, ast.Load())
            if isinstance(node.func, ast.Attribute)
            else ast.Name(other, ast.Load())
        )
        yield "neighbour called", ast.Call(called, node.args, node.keywords)
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            others = node.keywords[:index] + node.keywords[index + 1 :]
            yield "keyword forgotten", ast.Call(node.func, node.args, others)
    plain = [not isinstance(argument, ast.Starred) for argument in node.args]
    for index in range(len(node.args) - 1):
        if plain[index] and plain[index + 1]:
            swapped = list(node.args)
            swapped[index : index + 2] = swapped[index + 1], swapped[index]
            yield "arguments swapped", ast.Call(node.func, swapped, node.keywords)
