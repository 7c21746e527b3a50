"""Files that a command writes: none of them takes the place of a file that it reads."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from dhp_sr.utils.errors import UserError


def is_same_file(first: str | Path, second: str | Path) -> bool:
    """Return whether two paths name the same file or folder; False where one of them is missing."""
    # The system is asked: links, `./` and, on some file systems, other cases name the same file.
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def check_outputs(
    outputs: Mapping[str, str | Path | None],
    inputs: Iterable[str | Path | None],
    kept_suffixes: Iterable[str] = (),
) -> None:
    """Check that the outputs of a command are files, and replace neither its inputs nor each other.

    Args:
        outputs: Option -> file that it names; None: not given.
        inputs: Files and folders that are read; None: not given.
        kept_suffixes: Suffixes of files that may be replaced in a folder that is read, since such
            files there are results of the command, such as `.html`.

    Raises:
        UserError: A file would be replaced, or an output is a folder.
    """
    given = {option: Path(path) for option, path in outputs.items() if path is not None}
    read = [Path(path) for path in inputs if path is not None]
    options: dict[str, str] = {}
    for option, output in given.items():
        # Otherwise it is found when all the work is done.
        if os.path.isdir(output):
            raise UserError(f"{option} {output}: expected the name of a file, got a folder")
        for source in read:
            _check_output(option, output, source, kept_suffixes)
        other = options.setdefault(os.path.realpath(output), option)
        if other != option:
            raise UserError(f"{other} and {option}: expected two files, got {output} twice")


def _check_output(option: str, output: Path, source: Path, kept_suffixes: Iterable[str]) -> None:
    # A name that is too long, or a folder that may not be read, is reported where it is used.
    if not os.path.isfile(output):
        return
    if is_same_file(output, source):
        raise UserError(f"{option} {output}: would replace {source} itself; give another name")
    is_inside = Path(os.path.realpath(output)).is_relative_to(os.path.realpath(source))
    if is_inside and output.suffix.lower() not in kept_suffixes:
        raise UserError(f"{option} {output}: would replace a file of {source}; give another name")
