"""Which files are images to restore, and what the results are called."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dhp_sr.inference.encode import kind_of
from dhp_sr.utils.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
"""Files of a folder that are tried; a GIF only to say what is wrong with it if it is animated."""


@dataclass(frozen=True)
class Job:
    """One image and where its result goes."""

    source: Path
    target: Path
    kind: str
    """Format of the result."""


@dataclass(frozen=True)
class Work:
    """What there is to do."""

    jobs: tuple[Job, ...]
    left_alone: tuple[Path, ...]
    """Files of the folder that are not named like images."""


def find_work(source: Path, output: Path, form: str, suffix: str = "") -> Work:
    """Return every image of a folder and of the folders in it, or one file, with a name for each result.

    Results keep the folders and names of their images. Where two images would have the same result (`a.png`, `a.jpg`),
    both results carry the image's suffix in their names (`a_png.png`, `a_jpg.png`).

    Args:
        source: A file or a folder.
        output: A folder; for a single file also a file, if it has the suffix of an image.
        form: Format of the results, of `encode.KINDS`, or `same`.
        suffix: Added to the names, before the format's.

    Raises:
        UserError: there is no such file or folder, no image in it, or a result would replace an image.
    """
    if any(sign in suffix for sign in "/\\\0"):
        raise UserError(
            f"--suffix: expected a part of a file's name, such as _x4, found {suffix!r}"
        )
    if not source.exists() and not source.is_symlink():
        raise UserError(f"--input {source}: expected a file or a folder, found none")
    if source.is_file() and output.suffix.lower() in SUFFIXES and not output.is_dir():
        jobs, left = (Job(source, output, kind_of(output.suffix)),), ()
    elif source.is_dir():
        found, left = _walk(source, output)
        jobs = _named(found, source, output, form, suffix)
        if not jobs:
            raise UserError(
                f"--input {source}: expected images ({', '.join(SUFFIXES)}), found none among {len(left)} files"
            )
    else:
        jobs, left = _named([source], source.parent, output, form, suffix), ()
    _check_targets(jobs)
    return Work(tuple(jobs), tuple(left))


def _walk(root: Path, output: Path) -> tuple[list[Path], list[Path]]:
    """Return what is named like an image, folders included, and the other files; links to folders are followed."""
    found, left, seen, own = [], [], set(), os.path.realpath(output)
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or (real == own and real != os.path.realpath(root)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *files]:
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                found.append(path)
            elif name not in folders:
                left.append(path)
    return sorted(found), sorted(left)


def _named(found: list[Path], root: Path, output: Path, form: str, suffix: str) -> list[Job]:
    jobs = [(path, kind_of(path.suffix) if form == "same" else form) for path in found]
    plain = [_target(path, root, output, kind, suffix, "") for path, kind in jobs]
    often = Counter(_key(target) for target in plain)
    named, taken = [], {_key(target) for target in plain if often[_key(target)] == 1}
    for (path, kind), target in zip(jobs, plain, strict=True):
        number = 0
        if often[_key(target)] > 1:
            mark = "_" + path.suffix[1:]
            target = _target(path, root, output, kind, suffix, mark)
            while _key(target) in taken:
                number += 1
                target = _target(path, root, output, kind, suffix, f"{mark}{number}")
            taken.add(_key(target))
        named.append(Job(path, target, kind))
    return named


def _target(path: Path, root: Path, output: Path, kind: str, suffix: str, mark: str) -> Path:
    ending = (
        path.suffix
        if kind == kind_of(path.suffix) and path.suffix.lower() != ".gif"
        else f".{kind}"
    )
    return output / path.relative_to(root).with_name(f"{path.stem}{mark}{suffix}{ending}")


def _key(path: Path) -> str:
    return str(path).lower()  # some file systems do not tell A from a


def _check_targets(jobs: list[Job] | tuple[Job, ...]) -> None:
    sources = {os.path.realpath(job.source): job.source for job in jobs}
    for job in jobs:
        if os.path.realpath(job.target) in sources:
            raise UserError(
                f"the result of {job.source} would replace the image {sources[os.path.realpath(job.target)]}; "
                "choose another --output, or give --suffix"
            )
