"""Targets of `prepare_data.py`: named only when complete, with a record of what they are made from.

An unfinished target is called `<target>.part`. Both hold the record (`prepare.json`), so that the
same command resumes an interrupted run, and finds nothing to do after a finished one.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dhp_sr.data.sources import StoredImage
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_json
from dhp_sr.utils.overwriting import is_same_file
from dhp_sr.utils.strict_json import Json

RECORD = "prepare.json"
UNFINISHED_SUFFIX = ".part"

_STATE = "state"
_CONTENT = "content"
_CHUNK_BYTES = 2**20


def begin(
    target: Path,
    source: str | Path,
    settings: Mapping[str, Json],
    images: Sequence[StoredImage] = (),
) -> Path | None:
    """Return the unfinished folder to fill, or None if the target is complete.

    Args:
        target: Folder to make.
        source: Where the images come from.
        settings: All that decides about the result apart from the images' files.
        images: Those whose files are compared with the record: by size and time of change and,
            where these differ, by content. Files that were only copied or touched are the same.

    Raises:
        UserError: Target or unfinished folder exist and were made with other settings or from other
            files, or are the source.
    """
    if not target.name:
        raise UserError(
            f"expected the name of a folder to make, got {str(target)!r}: choose a new name"
        )
    unfinished = _unfinished(target)
    # Before the advice to delete what is there.
    for folder in (target, unfinished):
        if is_same_file(folder, Path(source).expanduser()):
            raise UserError(
                f"{target}: expected another folder than that of the images, {source}: choose "
                "another name"
            )
    # an empty folder may be there already, made by hand
    if target.is_dir() and any(target.iterdir()):
        if _is_record_of(target, settings, images):
            return None
        raise UserError(
            f"{target}: exists, made from other images or with other settings, or the images were "
            "edited since: delete it or choose another"
        )
    if target.is_file():
        raise UserError(f"{target}: expected a folder to make, got a file: choose another name")
    if not unfinished.exists() or not any(unfinished.iterdir()):
        # Before the folder: reading all files takes long enough to be interrupted.
        record = {**settings, _STATE: _state_of(images), _CONTENT: _content_of(images)}
        unfinished.mkdir(parents=True, exist_ok=True)
        write_json(unfinished / RECORD, record)
    elif not _is_record_of(unfinished, settings, images):
        raise UserError(
            f"{unfinished}: is left from an interrupted run with other images or settings, or the "
            "images were edited since: delete it, or finish that run first with the same arguments"
        )
    return unfinished


def finish(unfinished: Path, target: Path) -> None:
    """Give a filled folder its final name."""
    for leftover in unfinished.glob(".*.part"):  # temporary files of a run that was killed
        leftover.unlink()
    # A link to a folder stays one.
    os.replace(unfinished, os.path.realpath(target))


def _unfinished(target: Path) -> Path:
    # Beside the folder that a link leads to: it may be on another disk.
    folder = Path(os.path.realpath(target))
    return folder.with_name(f"{folder.name}{UNFINISHED_SUFFIX}")


def _is_record_of(
    folder: Path, settings: Mapping[str, Json], images: Sequence[StoredImage]
) -> bool:
    """Return whether a folder was made with these settings from these files."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(record, dict):
        return False
    # Earlier versions recorded neither.
    state = record.pop(_STATE, None)
    content = record.pop(_CONTENT, None)
    if record != settings:
        return False
    return content is None or state == _state_of(images) or content == _content_of(images)


def _files(images: Sequence[StoredImage]) -> Iterator[Path]:
    """Yield the files of images, each once: those of a database share one."""
    files = (image.file for image in images)
    yield from dict.fromkeys(file for file in files if file is not None)


def _state_of(images: Sequence[StoredImage]) -> str:
    """Return a digest of sizes and times of change."""
    digest = hashlib.sha256()
    for file in _files(images):
        status = file.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _content_of(images: Sequence[StoredImage]) -> str:
    """Return a digest of what is in the files; reading takes a fraction of decoding."""
    digest = hashlib.sha256()
    for path in _files(images):
        with open(path, "rb") as file:
            digest.update(f"{os.fstat(file.fileno()).st_size}\n".encode())
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
