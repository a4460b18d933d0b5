"""Every comparison with somebody else's numbers is recorded, and printed at the end of the run."""

import numpy as np
import pytest


@pytest.fixture
def same(record_property):
    """`same(case, ours, theirs, tolerance=2e-5)`: the largest error over the largest value."""

    def check(case, ours, theirs, tolerance=2e-5):
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        assert ours.shape == theirs.shape
        error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        record_property("parity", (case, error, tolerance))
        assert error < tolerance, f"{case}: relative error {error:.2e}, allowed {tolerance:.0e}"

    return check


def pytest_terminal_summary(terminalreporter):
    """The table, from the reports: tests may have run in other processes."""
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == "parity"
    ]
    if rows:
        terminalreporter.section("parity: largest error relative to the largest value")
        for case, error, tolerance in rows:
            terminalreporter.line(f"{case:45} {error:.1e}   (allowed {tolerance:.0e})")
