"""Rows of a test of which most run only with `-m slow`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def rows(values: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """Return a parameter for each value; those that are not in `fast` are marked slow.

    Args:
        values: All that the test is for.
        fast: Those of different kinds, which always run.
    """
    values = list(values)
    assert set(fast) <= set(values), "a row that does not exist would never run"
    return [
        pytest.param(value, marks=() if value in fast else pytest.mark.slow) for value in values
    ]
