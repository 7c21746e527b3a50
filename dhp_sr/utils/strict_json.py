"""Strict JSON: values that every JSON parser reads back, without Python's NaN and Infinity."""

import json
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from dhp_sr.utils.errors import UserError

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
"""A value that JSON can hold, for those who write it or pass it on."""

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object whose keys the reader knows: a report, a row of results, a file's description.

Its values are `Json`; the reader of a key knows of which kind, which a type checker cannot."""


def finite(value: Any) -> Any:
    """Replace infinite and undefined numbers in a tree of mappings and sequences by None."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(value: object, key: str) -> Json:
    """Convert a value to JSON's types; NumPy numbers, tuples and paths are converted too.

    Args:
        value: Number, text, path, or a mapping or list of them.
        key: Name of the value, for the error.

    Returns:
        The same tree of `None`, `bool`, `int`, `float`, `str`, `dict` and `list`.

    Raises:
        UserError: JSON cannot hold the value, or a number is not finite.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: to_json(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item, f"{key}[{index}]") for index, item in enumerate(value)]
    raise UserError(
        f"{key}: expected a value that JSON can hold (text, finite number, list, dict), "
        f"got {repr(value)[:80]}"
    )


def parse_json(text: str | bytes) -> Any:
    """Parse strict JSON; the constants NaN and Infinity, which Python accepts, are errors.

    Raises:
        ValueError: The text is not strict JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        # A few kilobytes of "[[[[..." exhaust the stack; to a caller that is a malformed text.
        raise ValueError(str(error)) from None


def dump_json(value: Json, *, sort_keys: bool = False) -> str:
    """Write a line of strict JSON without spaces.

    Raises:
        ValueError: A number is infinite or undefined.
    """
    return json.dumps(
        value, allow_nan=False, separators=(",", ":"), ensure_ascii=False, sort_keys=sort_keys
    )


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
