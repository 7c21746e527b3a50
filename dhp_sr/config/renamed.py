"""Former names of option keys and values.

A key or value that gets a new name has a row in `RENAMED`. Option files with the former name go on
being read: `use_current_names` translates plain values before they are decoded, and says what to
write instead. The command line (`--set`), option files and the options of old run folders all pass
through it.
"""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dhp_sr.config.section import Issue
from dhp_sr.utils.strict_json import JsonObject


@dataclass(frozen=True)
class Renamed:
    """A key that was renamed or moved, or values of a key that were renamed."""

    former: str
    """Dotted path that is still accepted; `*` stands for any single key."""
    current: str
    """Dotted path today, with the same wildcards; equal to `former` if only values changed."""
    values: Mapping[str | bool, str | bool] = field(default_factory=dict)
    """Former value -> value today; all others stay as they are."""


INVERTED: Mapping[str | bool, str | bool] = {True: False, False: True}

RENAMED = (
    Renamed("datasets.*.color", "datasets.*.color", {"grey": "gray"}),
    Renamed("compress.method", "compress.method", {"lines": "prior_widths"}),
    Renamed("compress.preset", "compress.preset", {"modern": "default", "faithful": "paper"}),
    Renamed("compress.parametrisation", "compress.parametrization"),
    Renamed("compress.keep_streams", "compress.prune_residual", INVERTED),
    Renamed("compress.price_power", "compress.dhp.cost_exponent"),
    Renamed("compress.latent_lr", "compress.dhp.latent_lr"),
    Renamed("compress.penalty", "compress.dhp.penalty"),
    Renamed("compress.hsn.offset", "compress.hsn.logit_bias"),
    Renamed("compress.hsn.balance", "compress.hsn.gradient_balance"),
    Renamed("compress.hsn.approach", "compress.hsn.target_ramp"),
    Renamed("compress.hsn.budget_term", "compress.hsn.cost_regularizer"),
    Renamed("compress.hsn.budget_gates", "compress.hsn.cost_gates", {"drawn": "sampled"}),
    Renamed("compress.hsn.layer_scaling", "compress.hsn.layer_scaling", {"flops": "cost"}),
    Renamed("compress.hsn.scaling_rate", "compress.hsn.scaling_lr"),
)


def use_current_names(
    raw: Mapping[str, object], set_names: Collection[str] = ()
) -> tuple[JsonObject, list[Issue]]:
    """Translate former names in the plain values of an option file.

    A key that is given under both names keeps the value that `--set` gave. If neither came from
    there, both stay, and decoding reports the former one as a mistake (see `former_name_of`).

    Args:
        raw: Section -> key -> value, before decoding; not changed.
        set_names: Dotted names of the keys that `--set` gave.

    Returns:
        The values under the names of today, and for each former name where it stands and what to
        write instead.
    """
    current = copy.deepcopy(dict(raw))
    notices: list[Issue] = []
    for row in RENAMED:
        # A list, as translating a key changes what is iterated over.
        for path in list(_matching_paths(current, row.former.split("."))):
            if row.former == row.current:
                notice = _translate_value(current, row, path)
            else:
                notice = _move_key(current, row, path, set_names)
            if notice is not None:
                notices.append((path, notice))
    return current, notices


def former_name_of(path: tuple[str, ...]) -> str | None:
    """Return the dotted name of today if `path` is the former name of a key; None otherwise."""
    for row in RENAMED:
        current = _current_path(row, path)
        if current not in (None, path):
            return ".".join(current)
    return None


def _current_value(row: Renamed, value: object) -> object:
    """Return the value of today for a former one; any other value as it is."""
    for former, current in row.values.items():
        # 1 == True in Python, but not in an option file.
        if type(value) is type(former) and value == former:
            return current
    return value


def _translate_value(raw: JsonObject, row: Renamed, path: tuple[str, ...]) -> str | None:
    """Translate the value of a key that has kept its name."""
    section = _section(raw, path)
    value = section[path[-1]]
    new_value = _current_value(row, value)
    if new_value == value:
        return None
    section[path[-1]] = new_value
    return f"{value!r} is now called {new_value!r}; write {path[-1]}: {_yaml(new_value)}"


def _move_key(
    raw: JsonObject, row: Renamed, path: tuple[str, ...], set_names: Collection[str]
) -> str | None:
    """Move a value to the name of today; `use_current_names` says which one wins if both exist."""
    new_path = _current_path(row, path)
    assert new_path is not None, "the path fits the row"
    new_section = _section(raw, new_path)
    if new_section is None:
        return None
    is_override = _is_set(path, set_names)
    if new_path[-1] in new_section and not is_override and not _is_set(new_path, set_names):
        return None
    name = ".".join(new_path)
    value = _section(raw, path).pop(path[-1])
    if value is None:
        # Dumped options hold every key, and null always meant the default. The new key may not
        # take null; leaving it out says the same.
        return f"is now called {name}; delete it, for null meant its default"
    new_value = _current_value(row, value)
    if new_path[-1] not in new_section or is_override:
        new_section[new_path[-1]] = new_value
    return f"is now called {name}; write {name}: {_yaml(new_value)}"


def _current_path(row: Renamed, path: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the path of today for a former path; None if the row is about another key."""
    former = row.former.split(".")
    if len(path) != len(former):
        return None
    wildcard_keys = []
    for key, wanted in zip(path, former, strict=True):
        if wanted == "*":
            wildcard_keys.append(key)
        elif key != wanted:
            return None
    # Wildcards stand in the same order in both names.
    current = []
    for key in row.current.split("."):
        current.append(wildcard_keys.pop(0) if key == "*" else key)
    return tuple(current)


def _is_set(path: tuple[str, ...], set_names: Collection[str]) -> bool:
    """Return whether `--set` gave a key, or a section around it."""
    return any(".".join(path[:length]) in set_names for length in range(1, len(path) + 1))


def _section(raw: JsonObject, path: tuple[str, ...]) -> Any:
    """Return the mapping that holds the last key of `path`, made if absent; None if none can be."""
    section: Any = raw
    for key in path[:-1]:
        if section.get(key) is None:
            section[key] = {}
        section = section[key]
        # A mistake of the user, which decoding reports.
        if not isinstance(section, dict):
            return None
    return section


def _matching_paths(raw: object, pattern: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the paths that exist in `raw` and fit a pattern."""
    if not isinstance(raw, dict):
        return
    for key in list(raw):
        if pattern[0] not in ("*", key):
            continue
        if len(pattern) == 1:
            yield (key,)
            continue
        for rest in _matching_paths(raw[key], pattern[1:]):
            yield (key, *rest)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
