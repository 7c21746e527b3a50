"""Rounding up to multiples."""

import math

import pytest

from dhp_sr.utils.rounding import padding_to_multiple, round_up


@pytest.mark.parametrize("multiple", [1, 8, 7])
def test_the_next_multiple(multiple):
    for number in range(40):
        found = round_up(number, multiple)
        assert found == multiple * math.ceil(number / multiple) and 0 <= found - number < multiple


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(8, 12, (0, 0, "reflect")), (9, 12, (3, 0, "reflect")), (1, 12, (3, 0, "replicate"))],
)
def test_padding_to_a_multiple(height, width, expected):
    assert padding_to_multiple(height, width, 4) == expected
