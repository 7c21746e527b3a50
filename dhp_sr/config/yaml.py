"""Option text to plain values: safe YAML that reads `1e-4` as a number, refuses repeated keys and remembers lines."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from dhp_sr.utils.errors import UserError

_FLOAT = re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]?\d+)?$")


class OptionLoader(yaml.SafeLoader):
    """Safe YAML (no python tags) with `1e-4` a number and a key written twice an error."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        """Build a mapping after checking that no key occurs twice."""
        if isinstance(node, yaml.MappingNode):
            _refuse_repeats(node)
        return super().construct_mapping(node, deep)


OptionLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse(text: str, where: str) -> tuple[Any, yaml.Node | None]:
    """Return the values in `text` and the node tree that knows their lines.

    Args:
        text: YAML.
        where: what the text is, for the error: a file name, or an override.

    Raises:
        UserError: the text is not YAML, holds a python tag, or a key twice.
    """
    try:
        loader = OptionLoader(text)
        try:
            node = loader.get_single_node()
            return (None if node is None else loader.construct_document(node)), node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(
            f"{where}{place}: expected YAML, found: {error.problem or error.context}"
        ) from error
    except RecursionError as error:
        raise UserError(
            f"{where}: expected YAML, found more levels of it than can be read"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: expected YAML, found: {error}") from error


def lines_of(node: yaml.Node | None, path: Sequence[str]) -> list[int]:
    """Return the lines (from 1) of the keys of `path`, outermost first, as far as the text holds them."""
    lines = []
    for name in path:
        entries = node.value if isinstance(node, yaml.MappingNode) else []
        match = next(((key, value) for key, value in entries if key.value == name), None)
        if match is None:
            break
        lines.append(match[0].start_mark.line + 1)
        node = match[1]
    return lines


def _refuse_repeats(node: yaml.MappingNode) -> None:
    lines: dict[Any, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in lines:
            problem = f"the key {key.value!r} twice (first on line {lines[key.value]})"
            raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        lines[key.value] = key.start_mark.line + 1
