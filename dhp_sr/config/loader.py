"""Option files to `Options` and back."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from dhp_sr.config.checks import idle_settings, problems
from dhp_sr.config.messages import explain, show
from dhp_sr.config.overrides import apply_overrides
from dhp_sr.config.renamed import use_current_names
from dhp_sr.config.schema import Options
from dhp_sr.config.yaml import lines_of, parse
from dhp_sr.utils.errors import UserError


def load_options(path: str | Path, overrides: Sequence[str] = ()) -> Options:
    """Return the checked options of a file; a setting without effect gives a warning.

    Args:
        path: the YAML file.
        overrides: `section.key=value` each, the value read as YAML; they win over the file.
            Former names of keys and values are accepted in both, with a warning.

    Raises:
        UserError: the file cannot be read, is no YAML mapping, or does not fit the schema; all mistakes in one message.
    """
    raw, node = parse(_read(Path(path)), str(path))
    if not isinstance(raw, dict):
        raise UserError(
            f"{path}, line 1: expected a mapping of option keys (name, network_g, ...), found {show(raw)}"
        )
    raw, set_names = apply_overrides(raw, overrides)
    raw, renamed = use_current_names(raw, set_names)

    def place(keys: Sequence[str]) -> str:
        return _place(keys, lines_of(node, keys), set_names)

    for keys, text in renamed:
        warnings.warn(f"{path}: {place(keys)} {text}", stacklevel=2)
    try:
        options = Options.model_validate(raw)
    except ValidationError as error:
        raise _refusal(path, [f"{place(keys)}: {text}" for keys, text in explain(error)]) from None
    found = [f"{place(keys)}: {text}" for keys, text in problems(options)]
    if found:
        raise _refusal(path, found)
    for keys, text in idle_settings(options):
        warnings.warn(f"{path}: {place(keys)}: {text}", stacklevel=2)
    return options


def dump_options(options: Options) -> str:
    """Return YAML text with every key, defaults included, that loads again to an equal object."""
    return yaml.safe_dump(
        options.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: expected an option file, found nothing there; see the folder options/"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a readable text file, found: {error}") from error


def _place(keys: Sequence[str], lines: Sequence[int], set_names: Iterable[str]) -> str:
    """Say where a setting comes from: the command line, or a line of the file."""
    name = ".".join(keys)
    inside = any(f"{name}.".startswith(f"{one}.") for one in set_names)
    around = any(one.startswith(f"{name}.") for one in set_names) and len(lines) < len(keys)
    if inside or around:
        return f"{name} (--set)"
    return f"{name} (line {lines[-1]})" if lines else name


def _refusal(path: str | Path, found: Iterable[str]) -> UserError:
    lines = list(found)
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return UserError(
        "\n".join([f"{path}: {count} in the options", *(f"  {line}" for line in lines)])
    )
