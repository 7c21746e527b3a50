"""Files: atomic writes, which leave a complete file or none, and the walk through a folder."""

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dhp_sr.utils.strict_json import Json

try:
    import fcntl
except ImportError:  # not on Windows, where leftovers stay
    fcntl = None  # type: ignore[assignment]

PART_SUFFIX = ".part"
"""End of the names of temporary files and folders, which also begin with a dot."""
_NEW_SECONDS = 10
"""Age below which an empty temporary file may not be locked yet."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it when the block succeeds.

    When the block raises, the temporary file is removed and an earlier `path` stays as it was.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        # A pipe or a device, such as /dev/stdout, would be replaced by a file.
        with _stream_path(path) as temporary:
            yield temporary
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: a rename across file systems would not be atomic.
    handle, temporary = _new_file(path)
    if fcntl is None:
        # Windows renames no open files.
        handle = _close(handle)
    try:
        # Held while the file is written, and given back by the kernel however the process ends.
        _try_lock(handle)
        yield temporary
        # The data must reach the disk before the name does, or a crash leaves an empty file.
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # A full disk is reported without a file name, or with one that nobody knows.
        known = (None, str(temporary))
        if isinstance(error, OSError) and error.errno and error.filename in known:
            error.filename = str(path)
        raise
    finally:
        _close(handle)


def _new_file(path: Path) -> tuple[int, Path]:
    """Make and open an empty temporary file beside a path."""
    while True:
        temporary = path.parent / f"{_prefix(path)}{secrets.token_hex(4)}{PART_SUFFIX}"
        # Not by tempfile, whose files are the user's alone: here the umask says who may read it.
        with suppress(FileExistsError):
            return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), temporary


@contextmanager
def _stream_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose content goes to a pipe or a device when the block succeeds."""
    with tempfile.TemporaryDirectory() as folder:
        # Writers may go by the suffix.
        temporary = Path(folder, path.name)
        yield temporary
        with open(temporary, "rb") as written, open(path, "wb") as stream:
            shutil.copyfileobj(written, stream)


@contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, for files that get their names when all are written.

    Raises:
        OSError: The folder cannot be made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=_prefix(path), suffix=PART_SUFFIX
    ) as name:
        handle = os.open(name, os.O_RDONLY)
        try:
            _try_lock(handle)
            yield Path(name)
        finally:
            os.close(handle)


def _close(handle: int) -> int:
    """Close an open file unless that was done; return the mark of a closed one."""
    if handle >= 0:
        os.close(handle)
    return -1


def _prefix(path: Path) -> str:
    return f".{path.name[:50]}."


def _try_lock(handle: int) -> bool:
    """Lock an open file; False where another process has locked it, or there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_stale_parts(paths: Iterable[str | Path]) -> list[Path]:
    """Remove the temporary files of some files that processes which were killed left there.

    Those that other processes are writing are locked, and stay; so do those of file systems
    without locks.

    Args:
        paths: Files that are about to be written; their folders may be missing.

    Returns:
        The temporary files and folders that were removed.
    """
    prefixes: dict[Path, set[str]] = {}
    for path in map(Path, paths):
        prefixes.setdefault(path.parent, set()).add(_prefix(path))
    removed = []
    for folder, expected in prefixes.items():
        for part in sorted(folder.glob(f".*{PART_SUFFIX}")):
            # the prefix, some random letters, the suffix
            prefix = part.name.removesuffix(PART_SUFFIX).rpartition(".")[0] + "."
            if prefix not in expected or not _is_abandoned(part):
                continue
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)
            removed.append(part)
    return removed


def _is_abandoned(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        status = os.fstat(handle)
        if status.st_size == 0 and time.time() - status.st_mtime < _NEW_SECONDS:
            return False
        return _try_lock(handle)
    finally:
        os.close(handle)


def _raise(error: OSError) -> None:
    raise error


def walk_folder(
    root: Path,
    without: Iterable[Path] = (),
    on_error: Callable[[OSError], None] = _raise,
) -> Iterator[Path]:
    """Yield the files in a folder and in all folders inside it, and these folders, sorted by path.

    Links to folders are followed; each folder is visited once, for a link can lead back up. Folders
    whose names begin with a dot are left out: editors and file managers keep copies there.

    Args:
        root: An existing folder.
        without: Folders that are left out, such as that of earlier results; the root never is.
        on_error: Called for each folder that cannot be read, which is left out then.

    Raises:
        OSError: A folder cannot be read, unless `on_error` says otherwise.
    """
    visited = {os.path.realpath(folder) for folder in without} - {os.path.realpath(root)}
    found: list[Path] = []
    for inner, folders, names in os.walk(root, onerror=on_error, followlinks=True):
        real = os.path.realpath(inner)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(inner, name) for name in [*folders, *names]]
    yield from sorted(found)


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


def write_json(path: str | Path, value: Json) -> None:
    """Write a value atomically as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def working_root(source: Path) -> Path:
    """Folder that relative paths of option files start from, and that runs are written to.

    Args:
        source: Folder above the package.

    Returns:
        `source` in a checkout; the working directory where the package is installed, since
        `source` is then the folder of all installed packages.
    """
    if (source / "pyproject.toml").is_file():
        return source
    return Path.cwd()
