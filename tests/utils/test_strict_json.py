"""utils/strict_json.py: what leaves the program is JSON that every parser reads."""

import math
from pathlib import Path

import numpy as np
import pytest

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import dump_json, finite, parse_json, to_json


def test_numbers_that_json_lacks_become_none():
    assert finite({"a": [math.nan, (math.inf, 1)], "b": "nan"}) == {
        "a": [None, [None, 1]],
        "b": "nan",
    }


def test_values_of_numpy_and_paths_are_converted():
    value = {"a": np.float32(0.5), "b": (np.int64(2), True, None), "c": Path("x/y")}
    converted = to_json(value, "facts")
    assert converted == {"a": 0.5, "b": [2, True, None], "c": "x/y"}
    assert type(converted["a"]) is float and type(converted["b"][0]) is int


@pytest.mark.parametrize("value", [math.inf, math.nan, object(), {1: 2}, {"a": [b"x"]}])
def test_other_values_are_refused_by_their_key(value):
    with pytest.raises(UserError, match="scores"):
        to_json(value, "scores")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "{", "[" * 100_000])
def test_what_is_not_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_one_line_without_spaces():
    assert dump_json({"b": [1, 2], "a": "ü"}, sort_keys=True) == '{"a":"ü","b":[1,2]}'
    with pytest.raises(ValueError):
        dump_json(math.nan)
