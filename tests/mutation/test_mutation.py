"""The faults that mutation testing draws, and the table it writes."""

import ast
from argparse import Namespace

import pytest

from tests.mutation import judges, operators, run
from tests.mutation.table import write_table

SOURCE = '''"""Words and 1 number."""

SIZE: int = 3


def scaled(x, *, limit=0.5, on=True):
    """Not 2."""
    if on and x < limit:
        x = -x
    x += helper(SIZE, x, factor=2.0)
    print("never", 7)
    if not x:
        raise ValueError("no" + str(x + 1))
    return jnp.sin(x) if x >= 1 else x**2
'''


def faults(source):
    return operators.mutants_of("module.py", source)


@pytest.mark.parametrize(
    "name",
    [
        "module.py : `3` -> `4`",
        "module.py scaled: `0.5` -> `0.75`",
        "module.py scaled: `True` -> `False`",
        "module.py scaled: `on and x < limit` -> `(on or x < limit)`",
        "module.py scaled: `x < limit` -> `(x <= limit)`",
        "module.py scaled: `x < limit` -> `(x > limit)`",
        "module.py scaled: `-x` -> `x`",
        "module.py scaled: `x += helper(SIZE, x, factor=2.0)` -> `pass`",
        "module.py scaled: `helper(SIZE, x, factor=2.0)` -> `helper(x, SIZE, factor=2.0)`",
        "module.py scaled: `helper(SIZE, x, factor=2.0)` -> `helper(SIZE, x)`",
        "module.py scaled: `not x` -> `x`",
        "module.py scaled: `jnp.sin(x)` -> `jnp.cos(x)`",
        "module.py scaled: `x**2` -> `(x * 2)`",
    ],
)
def test_every_kind_of_slip_is_found(name):
    assert name in {fault.name for fault in faults(SOURCE)}


def test_words_and_what_is_only_shown_are_left_alone():
    touched = [fault.before for fault in faults(SOURCE)]
    assert not [text for text in touched if "never" in text or "no" == text or text == "7"]
    assert not [text for text in touched if "ValueError" in text or "x + 1" in text]


def test_a_fault_changes_its_place_alone_and_the_rest_still_parses():
    source = "# é before\n" + SOURCE
    for fault in faults(source):
        changed = fault.applied(source)
        ast.parse(changed)
        assert changed[: fault.start] == source[: fault.start] and changed != source
        assert source[fault.start : fault.end] == fault.before
        assert fault.line == source[: fault.start].count("\n") + 1


def test_equal_faults_of_one_function_are_told_apart():
    names = [fault.name for fault in faults("def f(x):\n    return (x + 1) * (x + 1)\n")]
    assert len(names) == len(set(names))
    assert "module.py f: `1` -> `2`" in names and "module.py f: `1` -> `2` (2)" in names


def test_faults_are_drawn_by_the_seed_alone_and_every_module_has_a_judge():
    options = dict(area=None, module=None, all=False, count=240)
    first, again, other = (
        [fault.name for _, fault in run.draw(Namespace(seed=seed, **options))] for seed in (0, 0, 1)
    )
    assert first == again != other and len(first) >= 200
    drawn = run.draw(Namespace(seed=0, **options))
    for area in judges.AREAS:
        assert sum(one == area for one, _ in drawn) >= run.LEAST
    for _, fault in drawn:
        for test in judges.judges(judges.ROOT / fault.path):
            assert (judges.ROOT / test).is_file()


def test_the_table_counts_and_gives_reasons(tmp_path):
    results = [
        dict(area="nerf", name="a | b", killed=True), dict(area="nerf", name="c", killed=False),
        dict(area="mesh", name="d|e", killed=False), dict(area="mesh", name="f", killed=True),
    ]  # fmt: skip
    found = write_table(results, {"c": "the same result"}, tmp_path / "table.md", 5)
    assert found == (0.5, 1)
    text = (tmp_path / "table.md").read_text()
    assert "| nerf | 2 | 1 | 50% |" in text and "| all | 4 | 2 | 50% |" in text
    assert "| c | the same result |" in text and "| d\\|e | (not looked at) |" in text
