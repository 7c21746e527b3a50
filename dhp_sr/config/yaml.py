"""Text of an option file to plain values: a small, safe part of YAML that remembers lines.

Beyond `yaml.SafeLoader`: `1e-4` is a number, as people write it; `010` is ten, as in YAML 1.2;
dates stay text; a repeated key is an error. What option files do not need is refused: tags, keys
that are not text, anchors that contain themselves or multiply to more than MAX_NODES values.
"""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from dhp_sr.utils.errors import UserError

MAX_CHARACTERS = 2**18
"""Longest text that is read; PyYAML takes seconds for more."""
MAX_NODES = 20_000
"""Most values of a text after its anchors are expanded; the largest option file has about 100."""
MAX_DIGITS = 100
"""Longest integer; Python refuses to print those of more than 4,300 digits."""

_INT = re.compile(r"^[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|\d[\d_]*)$")
_FLOAT = re.compile(
    r"^([-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*([eE][-+]?\d+)?"
    r"|\.(inf|Inf|INF))|\.(nan|NaN|NAN))$"
)
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = ("null", "bool", "int", "float", "str", "seq", "map", "merge")


def _plain_resolvers(
    resolvers: Sequence[tuple[str, re.Pattern[str]]],
) -> list[tuple[str, re.Pattern[str]]]:
    """Return those of the tags that PyYAML and YAML 1.2 read alike; numbers get ours."""
    plain = []
    for tag, pattern in resolvers:
        if tag.removeprefix(_TAG) in ("null", "bool", "merge"):
            plain.append((tag, pattern))
    return plain


class OptionLoader(yaml.SafeLoader):
    """Loader without timestamps, octal `010` and base 60, and without tags of other types."""

    # Copies: yaml's classes share these tables, and other users of PyYAML must not be affected.
    yaml_implicit_resolvers = {
        first: _plain_resolvers(resolvers)
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in _PLAIN_TAGS
    }

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Value of an integer as YAML 1.2 has it: decimal, 0x or 0o."""
        text = str(self.construct_scalar(node)).replace("_", "")
        digits = text.lstrip("+-").lower()
        if len(digits) > MAX_DIGITS:
            raise _problem(node, f"an integer of {len(digits)} digits")
        # Plain digits are decimal even with leading zeros.
        base = {"0x": 16, "0o": 8}.get(digits[:2], 10)
        return int(text, base)

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        """Text of a value that could be the name of a file."""
        text = str(self.construct_scalar(node))
        # A NUL would end a file name, a surrogate cannot be encoded.
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise _problem(node, f"text that no file name can hold: {text!r}")
        return text


OptionLoader.add_implicit_resolver(_TAG + "int", _INT, list("-+0123456789"))
OptionLoader.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))
OptionLoader.add_constructor(_TAG + "int", OptionLoader.construct_yaml_int)
OptionLoader.add_constructor(_TAG + "str", OptionLoader.construct_yaml_str)


def parse(text: str, source: str) -> tuple[Any, yaml.Node | None]:
    """Decode YAML text.

    Args:
        text: YAML.
        source: Name of the text for the error: a file name, or an override.

    Returns:
        The values, and the node tree that knows their lines (see `lines_of`).

    Raises:
        UserError: The text is not YAML, or holds what an option file may not.
    """
    # Before anything is parsed: the scanner's time grows with the length.
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{source}: expected at most {MAX_CHARACTERS} characters of YAML, got more")
    try:
        # Composed first and constructed later, so that a tree is checked before it is expanded.
        loader = OptionLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, None
            _count_nodes(node, {}, set())
            return loader.construct_document(node), node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = ""
        if mark:  # YAML counts from 0, editors from 1
            position = f", line {mark.line + 1}, column {mark.column + 1}"
        problem = error.problem or error.context
        if problem and "unknown escape character" in problem:  # as in "C:\data"
            problem += "; write / for the backslash, or single quotes instead of double ones"
        raise UserError(f"{source}{position}: expected YAML, got: {problem}") from error
    except RecursionError as error:
        raise UserError(
            f"{source}: expected YAML, got more levels of it than can be read"
        ) from error
    # PyYAML passes on whatever int(), float() and its tables raise for a value with a wrong tag.
    except (yaml.YAMLError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{source}: expected YAML, got: {error}") from error


def _count_nodes(node: yaml.Node, counts: dict[int, int], above: set[int]) -> int:
    """Count the values below a node with all anchors expanded, and check its keys.

    Args:
        node: Root of a tree; an anchor's node occurs once for each alias.
        counts: Id of a node -> its count; filled here, so that an alias costs nothing.
        above: Ids of the nodes on the path from the root.

    Raises:
        yaml.MarkedYAMLError: An anchor contains itself, there are more than MAX_NODES values, or a
            key is not text or occurs twice.
    """
    if id(node) in above:
        raise _problem(node, "an anchor that contains itself")
    if id(node) in counts:  # seen under another alias
        return counts[id(node)]
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    count = 1
    above.add(id(node))
    for child in children:
        count += _count_nodes(child, counts, above)
        # Checked at every step, before merged mappings are copied into each other.
        if count > MAX_NODES:
            raise _problem(node, f"more than {MAX_NODES} values once its anchors are expanded")
    above.remove(id(node))
    counts[id(node)] = count
    return count


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        # `on`, `null` and `3` are valid keys of YAML, but no option has such a name.
        if key.tag not in (_TAG + "str", _TAG + "merge"):
            raise _problem(key, "a key that is not text; put it in quotes")
        if key.value in lines:
            first = lines[key.value]
            raise _problem(key, f"the key {key.value!r} twice (first on line {first})")
        lines[key.value] = key.start_mark.line + 1


def _problem(node: yaml.Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def lines_of(node: yaml.Node | None, path: Sequence[str]) -> list[int]:
    """Line numbers (from 1) of the keys of a path, outermost first.

    Args:
        node: Node tree of a text.
        path: Keys from the outermost section inward; the list ends where the text lacks a key.
    """
    lines = []
    for name in path:
        if not isinstance(node, yaml.MappingNode):
            break
        matches = [(key, value) for key, value in node.value if key.value == name]
        if not matches:
            break
        # Construction puts merged keys first, so the last match is the key's own.
        key, node = matches[-1]
        lines.append(key.start_mark.line + 1)
    return lines


class OptionDumper(yaml.SafeDumper):
    """Dumper that quotes text which `OptionLoader` or other readers of YAML take for a number."""

    yaml_implicit_resolvers = {
        first: list(resolvers)
        for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


OptionDumper.add_implicit_resolver(_TAG + "int", _INT, list("-+0123456789"))
OptionDumper.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))
