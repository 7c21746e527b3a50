"""Files that are either complete or not there."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes that name when the block ends well and is removed when it fails.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a full disk is reported without a name
        raise


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that takes the name `path` only once it is complete and on disk."""
    with (
        atomic_path(path) as temporary,
        open(temporary, mode, encoding=None if "b" in mode else "utf-8") as stream,
    ):
        yield stream


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with atomic_write(path, "w") as stream:
        stream.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def working_root(source: Path) -> Path:
    """Return the folder that relative paths of option files start from, and that runs are written to.

    Args:
        source: where the package lies: in a checkout the project's folder, which is the answer; installed, the folder
            of all packages, and the answer is the working directory.
    """
    return source if (source / "pyproject.toml").is_file() else Path.cwd()


def _sync(path: Path) -> None:
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
