"""Suggestions for misspelt names."""

import pytest

from dhp_sr.utils.names import nearest


@pytest.mark.parametrize(
    ("word", "expected"),
    [("EDSX", " (did you mean 'EDSR'?)"), ("edsr", " (did you mean 'EDSR'?)"), ("transformer", "")],
)
def test_nearest(word, expected):
    assert nearest(word, ["EDSR", "UNet"]) == expected
