"""Rounding up to multiples."""

import math

import pytest

from dhp_sr.utils.rounding import round_up


@pytest.mark.parametrize("multiple", [1, 8, 7])
def test_the_next_multiple(multiple):
    for number in range(40):
        found = round_up(number, multiple)
        assert found == multiple * math.ceil(number / multiple) and 0 <= found - number < multiple
