"""The parity table: every comparison is recorded and printed at the end of the run."""

import numpy as np
import pytest

_table: list[tuple[str, float, float]] = []


@pytest.fixture
def same(request):
    """`same(case, ours, theirs, tolerance=1e-4)`: the largest error over the largest value."""

    def check(case, ours, theirs, tolerance=1e-4):
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        assert ours.shape == theirs.shape
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        _table.append((case, error, tolerance))
        assert error < tolerance, f"{case}: relative error {error:.2e}, allowed {tolerance:.0e}"

    return check


def pytest_terminal_summary(terminalreporter):
    if _table:
        terminalreporter.section("parity: largest error relative to the largest value")
        for case, error, tolerance in _table:
            terminalreporter.line(f"{case:45} {error:.1e}   (allowed {tolerance:.0e})")
