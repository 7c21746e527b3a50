"""Suggestions for misspelt names."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the known name closest to `word`, or an empty string."""
    names = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), list(names), n=1, cutoff=0.5)
    return f" (did you mean {names[matches[0]]!r}?)" if matches else ""
