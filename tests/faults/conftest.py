"""Counts of the fault suite, printed when it ends."""

import pytest

COUNTS: list[str] = []


@pytest.fixture
def count():
    """Add a line to the counts."""
    return COUNTS.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts."""
    if COUNTS:
        terminalreporter.section("faults")
        for line in COUNTS:
            terminalreporter.write_line(line)
