"""Numbers for files."""

import math
from collections.abc import Mapping
from typing import Any


def finite(value: Any) -> Any:
    """Return the same tree with infinite and undefined numbers as None, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
