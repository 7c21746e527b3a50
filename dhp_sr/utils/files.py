"""Atomic writes: a file is either complete or absent."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PART_SUFFIX = ".part"
"""End of the names of temporary files, which also begin with a dot."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it when the block succeeds.

    When the block raises, the temporary file is removed and an earlier `path` stays as it was.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: a rename across file systems would not be atomic.
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name[:50]}.", suffix=PART_SUFFIX
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # The data must reach the disk before the name does, or a crash leaves an empty file.
        _sync(temporary)
        os.chmod(temporary, 0o644)  # mkstemp gives 0o600
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # A full disk is reported without a file name.
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)
        raise


def remove_partial_files(folder: Path) -> list[Path]:
    """Remove the temporary files that killed processes left in a folder and those inside it.

    Nothing may be writing to the folder.

    Returns:
        The files.
    """
    removed = []
    # os.walk does not follow links: what they lead to is not part of the folder.
    for inner, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and name.endswith(PART_SUFFIX):
                path = Path(inner, name)
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name once it is complete and on disk."""
    encoding = errors = None
    if "b" not in mode:
        encoding = "utf-8"
        # Names of files that are not UTF-8 end up in tables. They are written with escapes.
        errors = "backslashreplace"
    with (
        atomic_path(path) as temporary,
        open(temporary, mode, encoding=encoding, errors=errors) as file,
    ):
        yield file


def write_text(path: str | Path, text: str) -> None:
    """Write text atomically, in UTF-8."""
    with atomic_write(path, "w") as file:
        file.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value atomically as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def working_root(source: Path) -> Path:
    """Folder that relative paths of option files start from, and that runs are written to.

    Args:
        source: folder above the package.

    Returns:
        `source` in a checkout; the working directory where the package is installed, since
        `source` is then the folder of all installed packages.
    """
    if (source / "pyproject.toml").is_file():
        return source
    return Path.cwd()
