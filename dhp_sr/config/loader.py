"""Option files to `Options` and back, also files that are based on another file."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from dhp_sr.config.checks import find_mistakes, find_unused
from dhp_sr.config.messages import QUOTES, SHELL_QUOTES, explain, show
from dhp_sr.config.renamed import use_current_names
from dhp_sr.config.schema import Options
from dhp_sr.config.section import Issue
from dhp_sr.config.yaml import MAX_CHARACTERS, OptionDumper, lines_of, parse
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import JsonObject

BASE = "base"
"""Key that names another option file."""
SET = "(--set)"
"""Place of a value that comes from the command line."""


@dataclass(frozen=True)
class _Source:
    """Text that values come from: an option file or the file it is based on."""

    path: Path
    node: yaml.Node | None
    renamed: tuple[Issue, ...]
    """Keys of the file under former names, and what to write instead."""


def load_options(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    check_network: Callable[[str], str | None] | None = None,
) -> Options:
    """Read and check an option file; a setting without effect gives a warning.

    A file can have a key `base` that names another file, relative to itself. Sections are then
    merged key by key, and everything else (lists too) replaces the value of the other file.

    Args:
        path: YAML file.
        overrides: `section.key=value` each, the value read as YAML; they win over the file.
            Former names of keys and values are accepted in both, with a warning.
        check_network: Returns what is wrong with a `network_g.type`, or None. The names are known
            to packages above this one; given here, an unknown one is reported with all other
            mistakes.

    Raises:
        UserError: A file cannot be read or is no mapping, `base` leads in a circle, an override
            has another form, or options do not fit the schema; with all mistakes.
    """
    path = Path(path)
    raw, sources = _read_with_base(path, ())
    raw, set_keys = apply_overrides(raw, overrides)
    raw, renamed = use_current_names(raw, set_keys)
    for keys, text in renamed:
        warnings.warn(f"{path}: {'.'.join(keys)} (--set) {text}", stacklevel=2)
    for source in sources:
        for keys, text in source.renamed:
            where = _locate(keys, [source], set())
            warnings.warn(f"{source.path}: {where} {text}", stacklevel=2)
    mistakes = _check_network_type(raw, check_network)
    options: Options | None = None
    # Everything that is wrong is collected first, so that a user corrects a file once.
    try:
        options = Options.model_validate(raw)
    except ValidationError as error:
        mistakes += explain(error)
    # Settings can only be compared with each other once all of them are decoded.
    if options is not None:
        mistakes += find_mistakes(options)
    if options is None or mistakes:
        plural = "s" * (len(mistakes) > 1)
        lines = [f"{path}: {len(mistakes)} mistake{plural} in the options"]
        for keys, text in mistakes:
            where = _locate(keys, sources, set_keys)
            if where.endswith(SET):
                text = text.replace(QUOTES, SHELL_QUOTES)
            lines.append(f"  {where}: {text}")
        raise UserError("\n".join(lines))
    for keys, text in find_unused(options):
        warnings.warn(f"{path}: {_locate(keys, sources, set_keys)}: {text}", stacklevel=2)
    return options


def _read_with_base(path: Path, above: tuple[Path, ...]) -> tuple[JsonObject, list[_Source]]:
    """Values of a file merged into those of its base.

    Args:
        path: File to read.
        above: Resolved paths of the files that are based on it.

    Returns:
        The merged values, and the files, the given one first.
    """
    text = _read_text(path, above)
    raw, node = parse(text, str(path))
    if not isinstance(raw, dict):
        expected = "expected a mapping of option keys (name, network_g, ...)"
        raise UserError(f"{path}, line 1: {expected}, got {show(raw)}")
    # Before merging: a file and its base may use the former and the current name of a key.
    raw, renamed = use_current_names(raw)
    source = _Source(path, node, tuple(renamed))
    if BASE not in raw:
        return raw, [source]

    where = f"{path}: {BASE} (line {lines_of(node, [BASE])[-1]})"
    base = raw.pop(BASE)
    if not isinstance(base, str):
        raise UserError(f"{where}: expected the path of an option file, got {show(base)}")
    # Resolved, since a file can have several names.
    chain = (*above, path.resolve())
    # Relative to the file, so that a file and its base can be moved together.
    base_path = path.parent / base
    if base_path.resolve() in chain:
        raise UserError(f"{where}: {base!r} is based on this file; expected no circle")
    base_raw, base_sources = _read_with_base(base_path, chain)
    return _merged(base_raw, raw), [source, *base_sources]


def _read_text(path: Path, above: tuple[Path, ...]) -> str:
    """Text of an option file; arguments and errors as for `_read_with_base`."""
    hint = f"named as base of {above[-1]}" if above else "see the folder options/"
    try:
        # The command line may name a pipe, as shells make of <(...); a file may not.
        is_other = bool(above) and path.exists() and not path.is_file()
        if not is_other:
            with open(path, encoding="utf-8") as file:
                # One more than is parsed: a longer text is refused, and not held in memory.
                return file.read(MAX_CHARACTERS + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: expected an option file, got nothing there; {hint}") from None
    # ValueError: not UTF-8, or a NUL in the path.
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a readable text file, got: {error}") from error
    raise UserError(f"{path}: expected an option file, got a folder, a pipe or a device; {hint}")


def _merged(base: JsonObject, raw: JsonObject) -> JsonObject:
    merged = dict(base)
    for key, value in raw.items():
        # `compress: null` removes a section; so only two sections are merged.
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            value = _merged(merged[key], value)
        merged[key] = value
    return merged


def apply_overrides(raw: JsonObject, overrides: Sequence[str]) -> tuple[JsonObject, set[str]]:
    """Set keys of an option file from the command line.

    Args:
        raw: Values of an option file; not changed.
        overrides: `a.b=v` each; `v` is read as YAML, so numbers, lists, `null` and `{macs: 0.5}`
            work. Missing sections are added. Unknown keys show when the whole is decoded.

    Returns:
        The changed values, and the keys that were set.

    Raises:
        UserError: An override has another form, is no YAML, or leads through a value that is not
            a section.
    """
    set_keys = set()
    for text in overrides:
        # At the first equals sign: values may hold others.
        path, equals, value_text = text.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set: expected section.key=value, got {text!r}")
        value, _ = parse(value_text, f"--set {path.strip()}")
        raw = _with_value(raw, keys, value, text)
        set_keys.add(".".join(keys))
    return raw, set_keys


def _with_value(section: object, keys: list[str], value: object, text: str) -> JsonObject:
    """Copy of a section with one value set, any number of sections further in."""
    if section is None:  # absent, or `null` in the file
        section = {}
    if not isinstance(section, dict):
        got = show(section)
        raise UserError(f"--set {text}: expected a section above {keys[0]!r}, got {got}")
    head, *rest = keys
    if rest:
        value = _with_value(section.get(head), rest, value, text)
    return {**section, head: value}


def _check_network_type(
    raw: JsonObject, check_network: Callable[[str], str | None] | None
) -> list[Issue]:
    # On the raw values: it is to be reported beside mistakes that prevent decoding.
    section = raw.get("network_g")
    if check_network is None or not isinstance(section, dict):
        return []
    name = section.get("type")
    text = None
    if isinstance(name, str):
        text = check_network(name)
    return [(("network_g", "type"), text)] if text else []


def _locate(keys: Sequence[str], sources: Sequence[_Source], set_keys: set[str]) -> str:
    """Name of a setting and where its value comes from: the command line, or a line of a file."""
    name = ".".join(keys)
    # With a dot at the end: `compress.target` is not within `compress.targets`.
    for set_key in set_keys:
        if f"{name}.".startswith(f"{set_key}."):
            return f"{name} {SET}"
    # The file that holds most of the keys; the first one has the last word where several do.
    best = sources[0]
    best_lines: list[int] = []
    for source in sources:
        lines = lines_of(source.node, keys)
        if len(lines) > len(best_lines):
            best = source
            best_lines = lines
    # A section that only --set made.
    is_partial = len(best_lines) < len(keys)
    if is_partial and any(set_key.startswith(f"{name}.") for set_key in set_keys):
        return f"{name} {SET}"
    if not best_lines:
        return name
    line = f"line {best_lines[-1]}"
    # The message begins with the name of the file that was given.
    if best is not sources[0]:
        line = f"{best.path}, {line}"
    return f"{name} ({line})"


def dump_options(options: Options) -> str:
    """YAML text with every key, defaults included, that loads again to an equal object."""
    # mode="json": tuples and enumerations become what YAML can hold without tags.
    values = options.model_dump(mode="json")
    return yaml.dump(values, Dumper=OptionDumper, sort_keys=False, allow_unicode=True, width=120)
