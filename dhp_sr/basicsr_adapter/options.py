"""Options as BasicSR's programs pass them on: without what they add for themselves."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dhp_sr.utils.errors import UserError

DATASET_KEYS = (
    "scale",
    "phase",
    "manual_seed",
    "dataset_enlarge_ratio",
    "prefetch_mode",
    "num_prefetch_queue",
    "pin_memory",
    "persistent_workers",
    "use_shuffle",
    "io_backend",
)
"""Keys that BasicSR adds to a dataset's options or reads there, and our sections do not have."""
PATH_KEYS = (
    "models",
    "training_states",
    "log",
    "visualization",
    "resume_state",
    "strict_load_g",
    "param_key_g",
)
"""The same of the section `path`."""

Kind = TypeVar("Kind", bound=BaseModel)


def without(section: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the other keys of a section."""
    # Removed rather than allowed in our sections, where an unknown key must stay an error.
    return {key: value for key, value in section.items() if key not in set(keys)}


def our_options(opt: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return the content of an option file from what BasicSR made of it.

    Args:
        opt: All options; not changed.
        known: Keys of an option file.
    """
    options = {key: opt[key] for key in known if key in opt}
    datasets = {}
    for name, section in (opt.get("datasets") or {}).items():
        datasets[name] = without(section, DATASET_KEYS)
    options["datasets"] = datasets
    if isinstance(opt.get("path"), Mapping):
        options["path"] = without(opt["path"], PATH_KEYS)
    return options


def run_folder_of(opt: Mapping[str, Any]) -> str | None:
    """Return the folder that BasicSR's program made for a run; None where none did."""
    path = opt.get("path")
    if isinstance(path, Mapping) and "training_states" in path:
        return path["experiments_root"]
    return None


def decode(kind: type[Kind], fields: Mapping[str, Any]) -> Kind:
    """Decode options.

    Raises:
        UserError: With all mistakes.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        mistakes = []
        for detail in error.errors(include_url=False):
            mistakes.append(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}")
        raise UserError("; ".join(mistakes)) from None
