"""Suggestions for misspelled names."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """Text ` (did you mean 'x'?)` for the known name closest to `word`, or an empty string."""
    by_lower_case = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), list(by_lower_case), n=1, cutoff=0.5)
    if not matches:
        return ""
    return f" (did you mean {by_lower_case[matches[0]]!r}?)"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Message about a name that is not in a table: the name, the nearest one, all known names.

    Args:
        kind: what the name stands for, such as `network type`.
        name: the unknown name.
        known: names in the table.
    """
    names = list(known)
    return f"{kind} {name!r} is unknown{nearest(name, names)}; known: {', '.join(names)}"
