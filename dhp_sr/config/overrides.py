"""`--set a.b=v` on the command line: change one key of an option file."""

from collections.abc import Sequence
from typing import Any

from dhp_sr.config.yaml import parse
from dhp_sr.utils.errors import UserError


def apply_overrides(
    raw: dict[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], set[str]]:
    """Return a copy of `raw` with the keys named by `overrides` set, and those keys.

    Args:
        raw: the values of an option file.
        overrides: `a.b=v` each; `v` is read as YAML, so numbers, lists, `null` and `{macs: 0.5}` work. Sections that
            the file does not have are made. Whether a key is known is found out when the whole is decoded.

    Raises:
        UserError: an override has another form, is no YAML, or leads through a value that is not a section.
    """
    names = set()
    for text in overrides:
        path, equals, value_text = text.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set: expected section.key=value, found {text!r}")
        value, _ = parse(value_text, f"--set {path.strip()}")
        raw = _with(raw, keys, value, text)
        names.add(".".join(keys))
    return raw, names


def _with(section: Any, keys: list[str], value: Any, text: str) -> dict[str, Any]:
    if section is None:
        section = {}
    if not isinstance(section, dict):
        raise UserError(f"--set {text}: expected a section above {keys[0]!r}, found {section!r}")
    head, *rest = keys
    return {**section, head: _with(section.get(head), rest, value, text) if rest else value}
