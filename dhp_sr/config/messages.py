"""Errors of pydantic as messages for users: what a key accepts, and what the file holds."""

import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dhp_sr.config.datasets import KINDS, dataset_kind
from dhp_sr.config.renamed import former_name_of
from dhp_sr.config.schema import Options
from dhp_sr.config.section import Issue, Section
from dhp_sr.utils.errors import nearest

TYPE_NAMES: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Any: "any value",
}
BOUND_NAMES = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
ALTERNATIVES = ("single", "several")
"""Tags of the forms that `compress.target` can take; pydantic puts them among the keys."""
ONE_OF = "one of "
"""Begins the phrase for a key with several possible values."""
QUOTES = "put the text in quotes"
SHELL_QUOTES = "put the text in quotes inside those of the shell: 'key=\"text\"'"
"""The same for a value of the command line, whose own quotes the shell takes away."""
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
MAX_SHOWN = 80
"""Characters of a value that a message shows."""


def explain(error: ValidationError) -> list[Issue]:
    """Keys and message of every mistake.

    Args:
        error: Raised when an option file was decoded.
    """
    # A dictionary as an ordered set: alternatives of a type repeat the same mistake.
    issues: dict[Issue, None] = {}
    for detail in error.errors(include_url=False):
        keys, field, parent = _find_field(detail["loc"])
        issues[keys, _message(detail, keys, field, parent)] = None
    return list(issues)


def describe(annotation: object, metadata: Sequence[object] = ()) -> str:
    """Phrase for the values of a type, such as `a number above 0 and at most 1`.

    Args:
        annotation: Type of a field.
        metadata: Constraints from the field or from `Annotated`.
    """
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    # Constraints stand beside the type, and apply to all of its alternatives.
    if origin is Annotated:
        return describe(arguments[0], [*metadata, *arguments[1:]])
    if origin in (Union, types.UnionType):
        # None is the default of an optional key; `null` needs no explanation.
        phrases = [describe(item, metadata) for item in arguments if item is not type(None)]
        return " or ".join(dict.fromkeys(phrases))
    if origin is Literal:
        choices = ", ".join(repr(choice) for choice in arguments)
        prefix = ONE_OF * (len(arguments) > 1)
        return f"{prefix}{choices}"
    if origin is list:
        return f"a list (each: {describe(arguments[0])}){_describe_bounds(metadata)}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"a section with keys of {', '.join(annotation.model_fields)}"
    return TYPE_NAMES.get(annotation, "a section") + _describe_bounds(metadata)


def _describe_bounds(metadata: Sequence[object]) -> str:
    limits = []
    min_length = max_length = None
    constraints: list[object] = []
    for item in metadata:
        constraints += item.metadata if isinstance(item, FieldInfo) else [item]
    for constraint in constraints:
        for name, word in BOUND_NAMES.items():
            if hasattr(constraint, name):
                limits.append(f"{word} {getattr(constraint, name)}")
        # pydantic splits Field(min_length=..., max_length=...) into two constraints.
        min_length = getattr(constraint, "min_length", min_length)
        max_length = getattr(constraint, "max_length", max_length)
    if min_length is not None:
        size = f"of {min_length}"
        if min_length != max_length:
            size = f"{size} or more"
        limits.append(size)
    if not limits:
        return ""
    return f" {' and '.join(limits)}"


def show(value: object) -> str:
    """Text of a value as in an option file, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    if len(text) > MAX_SHOWN:
        text = text[: MAX_SHOWN - 3] + "..."
    return text


def _find_field(
    location: Sequence[str | int],
) -> tuple[tuple[str, ...], FieldInfo | None, type[Section] | None]:
    """Follow an error's location through the schema.

    Args:
        location: Keys, with list indices and names of alternatives between them.

    Returns:
        The keys alone, the field that they lead to, and the section that should hold it.
    """
    keys: list[str] = []
    section: type[Section] | None = Options
    field = None
    parent = None
    for step in location:
        if isinstance(step, int) or step in ALTERNATIVES:
            continue
        in_datasets = keys[:1] == ["datasets"]
        # `decode_datasets` puts the form of a dataset behind its key.
        if in_datasets and len(keys) == 2 and step in KINDS:
            section = dataset_kind(keys[1], str(step))
            continue
        # Behind a key that holds no section come names of types that pydantic tried.
        if section is None and keys != ["datasets"]:
            break
        parent = section
        keys.append(str(step))
        if section is None:
            section = dataset_kind(str(step))
            field = None
            continue
        field = section.model_fields.get(str(step))
        section = None
        if field:
            section = _section_in(field.annotation)
    return tuple(keys), field, parent


def _section_in(annotation: object) -> type[Section] | None:
    """Section that a field holds, alone or as an alternative; None for mappings of sections."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) is dict:
        return None
    for argument in get_args(annotation):
        section = _section_in(argument)
        if section is not None:
            return section
    return None


def _message(
    detail: ErrorDetails, keys: Sequence[str], field: FieldInfo | None, parent: type[Section] | None
) -> str:
    kind = detail["type"]
    value = detail["input"]
    if kind in ("extra_forbidden", "invalid_key") and parent:
        current_name = former_name_of(tuple(keys))
        if current_name is not None:
            return f"former name of {current_name}, which is set as well; delete one of them"
        known = parent.model_fields
        return f"unknown key{nearest(keys[-1], known) or '; known here: ' + ', '.join(known)}"
    if kind == "value_error":  # raised by a validator of ours
        return str(detail["ctx"]["error"])
    if kind == "dataset_key":  # raised by `decode_datasets`
        return detail["msg"]
    expected = describe(field.annotation, field.metadata) if field else "a section"
    if kind == "missing":
        return f"expected {expected}, got no such key"
    hint = ""
    # `1e5` is a float in YAML, and types are not converted.
    if isinstance(value, float) and value.is_integer() and "whole number" in expected:
        hint = f" (write {int(value)})"
    if isinstance(value, str) and expected.startswith(ONE_OF):
        choices = expected.removeprefix(ONE_OF).replace("'", "").split(", ")
        # In quotes, a number is text.
        hint = f" (write {value}, without quotes)" if value in choices else nearest(value, choices)
    if isinstance(value, str) and "number" in expected and NUMBER.fullmatch(value.strip()):
        hint = f" (write {value.strip()}, without quotes)"
    if isinstance(value, bool | int | float) and "text" in expected:
        hint = f" ({_text_hint(value)})"
    if value is False and "'none'" in expected:
        hint = " (write none)"
    return f"expected {expected}, got {show(value)}{hint}"


def _text_hint(value: bool | float) -> str:
    """Say how to write a text that YAML takes for something else."""
    if isinstance(value, bool):
        words = "yes and on" if value else "no and off"
        return f"YAML takes {words} for {show(value)}; {QUOTES}"
    return f"YAML takes it for a number; {QUOTES}"
