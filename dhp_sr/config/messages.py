"""Decoding errors in the user's words: `where: expected this, found that`."""

import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from dhp_sr.config.datasets import KINDS, dataset_kind
from dhp_sr.config.renamed import former_name_of
from dhp_sr.config.schema import Options
from dhp_sr.config.section import Section
from dhp_sr.utils.names import nearest

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Any: "any value",
}
ALTERNATIVES = ("one", "several")
"""Names of forms that a key can take; they are no keys themselves."""
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def explain(error: ValidationError) -> list[tuple[tuple[str, ...], str]]:
    """Return the path and the message of every mistake, each once.

    Args:
        error: what decoding an option file raised.
    """
    found: dict[tuple[tuple[str, ...], str], None] = {}
    for detail in error.errors(include_url=False):
        path, field, parent = _locate(detail["loc"])
        found[path, _message(detail, path, field, parent)] = None
    return list(found)


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return what a key accepts: `a number above 0 and at most 1`, `one of 'Adam', 'SGD'`, ..."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0], [*metadata, *arguments[1:]])
    if origin in (Union, types.UnionType):
        return _join([describe(one, metadata) for one in arguments if one is not type(None)])
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(repr(one) for one in arguments)
    if origin is list:
        return f"a list (each: {describe(arguments[0])}){_bounds(metadata)}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"a section with keys of {', '.join(annotation.model_fields)}"
    return _WORDS.get(annotation, "a section") + _bounds(metadata)


def show(value: Any) -> str:
    """Return `value` as the user wrote it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _locate(
    location: Sequence[str | int],
) -> tuple[tuple[str, ...], FieldInfo | None, type[Section] | None]:
    """Follow an error's location through the schema; list indices and the names of alternatives are left out."""
    path: list[str] = []
    section: type[Section] | None = Options
    field = parent = None
    for step in location:
        if isinstance(step, int) or step in ALTERNATIVES:
            continue
        if section is None and path != ["datasets"]:
            break
        if path[:1] == ["datasets"] and len(path) == 2 and step in KINDS:
            section = dataset_kind(path[1], str(step))
            continue
        parent, name = section, str(step)
        path.append(name)
        if section is None:
            section, field = dataset_kind(name), None
        else:
            field = section.model_fields.get(name)
            section = _section_in(field.annotation) if field else None
    return tuple(path), field, parent


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inside = () if get_origin(annotation) is dict else get_args(annotation)
    return next((found for one in inside if (found := _section_in(one))), None)


def _message(
    detail: Any, path: Sequence[str], field: FieldInfo | None, parent: type[Section] | None
) -> str:
    kind, value = detail["type"], detail["input"]
    if kind in ("extra_forbidden", "invalid_key") and parent:
        known = parent.model_fields
        current_name = former_name_of(tuple(path))
        if current_name is not None:
            return f"former name of {current_name}, which is set as well; delete one of them"
        return f"unknown key{nearest(path[-1], known) or '; known here: ' + ', '.join(known)}"
    expected = describe(field.annotation, field.metadata) if field else "a section"
    if kind == "missing":
        return f"expected {expected}, found no such key"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "dataset_key":
        return detail["msg"]
    return f"expected {expected}, found {show(value)}{_hint(expected, value)}"


def _hint(expected: str, value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and "whole number" in expected:
        return f" (write {int(value)})"
    if isinstance(value, str) and expected.startswith("one of "):
        return nearest(value, expected.removeprefix("one of ").replace("'", "").split(", "))
    return ""


def _bounds(metadata: Iterable[Any]) -> str:
    flat = [
        one
        for item in metadata
        for one in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    parts = [
        f"{word} {getattr(one, name)}"
        for one in flat
        for name, word in _BOUNDS.items()
        if hasattr(one, name)
    ]
    shortest = [one.min_length for one in flat if hasattr(one, "min_length")]
    longest = [one.max_length for one in flat if hasattr(one, "max_length")]
    if shortest:
        parts.append(f"of {shortest[0]}" if shortest == longest else f"of {shortest[0]} or more")
    return " " + " and ".join(parts) if parts else ""


def _join(alternatives: list[str]) -> str:
    return " or ".join(dict.fromkeys(alternatives))
