"""Paths of option files: what they are relative to, and the folder that holds all data."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dhp_sr.config.datasets import DRAWN, Dataset
from dhp_sr.config.schema import Options
from dhp_sr.config.section import Section
from dhp_sr.utils.errors import UserError

BUNDLED = "bundled:"
"""Prefix of data that is no path; DRAWN is another."""
ZOO = "zoo:"
"""Prefix of a model that comes with the program, which is no path; looked up where it is loaded."""
DATA_FOLDER = "datasets"
"""First folder of a path in an option file that `data_root` or DATA_VARIABLE replaces."""
DATA_VARIABLE = "DHP_SR_DATA"

SomeSection = TypeVar("SomeSection", bound=Section)


def run_path(options: Options, root: str | Path) -> Path:
    """Folder that a run writes to: `<experiments_root>/<name>`, relative to `root`.

    Raises:
        UserError: Its path is not UTF-8.
    """
    return _in_utf8(Path(root) / _expand_user(options.path.experiments_root) / options.name)


def resolve_path(root: str | Path, text: str, data_root: str | None = None) -> str:
    """Make a path of an option file absolute.

    It is relative to the working directory if it exists there, else to `root`.

    Args:
        root: Folder of the project.
        text: Path; `~` is the home folder, `$NAME` and `${NAME}` are environment variables.
            `bundled:...`, `drawn:...` and `zoo:...` stay as they are.
        data_root: Folder that takes the place of a leading `datasets`; default: none.

    Raises:
        UserError: The absolute path is not UTF-8.
    """
    if text.startswith((BUNDLED, DRAWN, ZOO)):
        return text
    path = _expand_user(text)
    if data_root is not None and path.parts[:1] == (DATA_FOLDER,):
        path = _expand_user(data_root).joinpath(*path.parts[1:])
    from_here = Path.cwd() / path
    # os.path.exists: for Path.exists a name that is too long is an error.
    if not os.path.exists(from_here):
        path = Path(root) / path
    return str(_in_utf8(path.resolve()))


def _in_utf8(path: Path) -> Path:
    """Return a path that model files and the stored options of a run can hold.

    Python knows other bytes in a path as lone surrogates. A run would fail on them at its end, and
    when it is resumed.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path}: expected a path in UTF-8, as safetensors requires; rename the folder"
        ) from error
    return path


def _expand_user(text: str) -> Path:
    """Expand `~` and environment variables; those that are not set stay as they are."""
    # A folder may have a dollar in its name.
    if not os.path.lexists(text):
        text = os.path.expandvars(text)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: expected a path, got no such user's home folder") from error


def resolve_paths(options: Options, root: str | Path) -> Options:
    """Make every path that is read absolute, see `resolve_path`; those that are written stay.

    Args:
        options: Options of a run.
        root: Folder of the project.
    """
    # The option goes first: the variable is set for a machine, the option for a run.
    data_root = options.data_root or os.environ.get(DATA_VARIABLE) or None
    datasets = {}
    for key, dataset in options.datasets.items():
        names = ("dataroot_gt", "dataroot_lq", "dataroot")
        dataset = _with_absolute(dataset, names, root, data_root)
        if isinstance(dataset, Dataset):
            # Written as well as read, beside the runs, which then share it.
            default = os.path.join(_expand_user(options.path.experiments_root), "image_cache")
            folder = os.path.join(root, _expand_user(dataset.cache_dir or default))
            dataset = dataset.model_copy(update={"cache_dir": folder})
        datasets[key] = dataset
    path = _with_absolute(options.path, ("pretrain_network_g",), root, data_root)
    compress = options.compress
    # Written as well as read, but an existing table may lie anywhere.
    if compress:
        compress = _with_absolute(compress, ("latency_table",), root, data_root)
    if compress and compress.distill:
        distill = _with_absolute(compress.distill, ("teacher",), root, data_root)
        compress = compress.model_copy(update={"distill": distill})
    return options.model_copy(update={"datasets": datasets, "path": path, "compress": compress})


def _with_absolute(
    section: SomeSection, names: Sequence[str], root: str | Path, data_root: str | None
) -> SomeSection:
    """Copy of a section with some of its paths made absolute, lists of paths included."""
    update: dict[str, str | list[str]] = {}
    for name in names:
        value = getattr(section, name, None)  # classifiers have `dataroot`, others two roots
        if isinstance(value, str):
            update[name] = resolve_path(root, value, data_root)
        elif isinstance(value, list):
            update[name] = [resolve_path(root, item, data_root) for item in value]
    return section.model_copy(update=update)
