"""The list of images to restore, and the names of the results."""

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dhp_sr.images.formats import OUTPUT_SUFFIXES, SUFFIXES, output_format_of
from dhp_sr.utils.errors import UserError, abbreviate
from dhp_sr.utils.files import walk_folder
from dhp_sr.utils.overwriting import is_same_file


@dataclass(frozen=True)
class ImageTask:
    """One image and the file of its result."""

    source: Path
    target: Path
    format: str
    """Format of the result, a key of `OUTPUT_FORMATS`."""

    @property
    def is_done(self) -> bool:
        """Whether there is a result, of this run or an earlier one."""
        # os.path: for Path.exists a name that is too long is an error. A folder or a pipe of this
        # name is no result.
        return os.path.isfile(self.target)


@dataclass(frozen=True)
class TaskList:
    """All images of a run."""

    tasks: tuple[ImageTask, ...]
    ignored: tuple[Path, ...] = ()
    """Files of the folder that are not named like images."""
    earlier: tuple[Path, ...] = ()
    """Images of the folder that are named like results of others, and so are none to restore."""
    unreadable: tuple[tuple[Path, str], ...] = ()
    """Folders that cannot be read, with the reasons."""


def list_tasks(
    source: Path, output: Path, output_format: str, suffix: str = "", *, overwrite: bool = False
) -> TaskList:
    """List every image of a folder and of the folders in it, or a single file.

    Results keep the folders and names of their images. Where two images would have the same result
    (`a.png`, `a.jpg`), the names of both tell their images' suffixes (`a_png.png`, `a_jpg.png`).
    Where the results go beside the images, those of an earlier run are told by their names.

    Args:
        source: A file or a folder.
        output: A folder; for a single file also a file, if it has the suffix of an image.
        output_format: Format of the results, a key of `OUTPUT_FORMATS`, or `same`.
        suffix: Added to the names, before the format's.
        overwrite: Whether earlier results are to be replaced.

    Raises:
        UserError: There is no such file or folder, no image in it, a setting has no effect, or a
            result would replace an image, or what may be one.
    """
    if any(sign in suffix for sign in "/\\\0"):
        raise UserError(
            f"--suffix: expected an end of a file's name, such as _x4, found {suffix!r}"
        )
    if not source.exists() and not source.is_symlink():
        raise UserError(f"--input {source}: expected a file or a folder, found none")
    _check_folder(output, may_be_file=not source.is_dir())
    if source.is_file() and output.suffix.lower() in SUFFIXES and not output.is_dir():
        task = ImageTask(source, output, output_format_of(output.suffix))
        _check_effect(task, output_format, suffix)
        _check_targets([task])
        return TaskList((task,))
    if not source.is_dir():
        tasks = _name_results([source], source.parent, output, output_format, suffix)
        _check_targets(tasks)
        return TaskList(tuple(tasks))
    images, ignored, unreadable = _walk(source, output)
    if not images and unreadable:
        path, reason = unreadable[0]
        raise UserError(f"--input {source}: expected images, but {path} cannot be read: {reason}")
    if not images:
        raise UserError(
            f"--input {source}: expected images ({', '.join(SUFFIXES)}), "
            f"found none among {len(ignored)} files"
        )
    earlier: list[Path] = []
    if suffix and is_same_file(source, output):
        # Compared in the folder: it may be spelled in two ways.
        inside = _name_results(images, source, source, output_format, suffix)
        earlier = _named_like_results(inside)
        images = [image for image in images if image not in set(earlier)]
    if earlier and overwrite:
        names = [str(path.relative_to(source)) for path in earlier]
        raise UserError(
            f"--overwrite: would replace {abbreviate(names)} in --input, which may be images of "
            "yours as well as earlier results; delete them, or choose another --output"
        )
    tasks = _name_results(images, source, output, output_format, suffix)
    _check_targets(tasks)
    return TaskList(tuple(tasks), tuple(ignored), tuple(earlier), tuple(unreadable))


def _named_like_results(tasks: list[ImageTask]) -> list[Path]:
    """Return the images that have the name of another's result, in whatever format."""
    results = {_key(task.target.with_suffix("")) for task in tasks}
    return [task.source for task in tasks if _key(task.source.with_suffix("")) in results]


def _check_effect(task: ImageTask, output_format: str, suffix: str) -> None:
    """Check that no setting contradicts the name of the single result.

    Raises:
        UserError: One does.
    """
    if suffix:
        raise UserError(f"--suffix: no effect with --output {task.target}, a file; omit it")
    # The default passes: that it was given cannot be seen.
    if output_format not in ("png", "same", task.format):
        raise UserError(
            f"--format {output_format}: expected the format of --output {task.target}; omit it, or "
            "give the file another suffix"
        )


def _check_folder(output: Path, *, may_be_file: bool) -> None:
    """Check that results can go to a path, or to a folder that is made there.

    Before the work: every single image would fail after it.

    Args:
        output: The path.
        may_be_file: Whether it may be a file, that of a single result.

    Raises:
        UserError: They cannot.
    """
    existing = output
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    # A single image may go to a file, which is replaced with its folder's permission.
    is_result = existing == output and existing.suffix.lower() in SUFFIXES
    if may_be_file and is_result and existing.is_file():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"--output {output}: expected a folder, {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--output {output}: expected a folder to write to, {existing} is not")


def _walk(root: Path, output: Path) -> tuple[list[Path], list[Path], list[tuple[Path, str]]]:
    """List what is named like an image, folders included, other files, and unreadable folders."""
    images = []
    ignored = []
    unreadable: list[tuple[Path, str]] = []

    def on_error(error: OSError) -> None:
        unreadable.append((Path(error.filename), error.strerror or str(error)))

    for path in walk_folder(root, without=[output], on_error=on_error):
        # folders too: `a.png` that is a folder is reported as such, not skipped
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            images.append(path)
        elif not path.is_dir():
            ignored.append(path)
    return images, ignored, unreadable


def _name_results(
    images: list[Path], root: Path, output: Path, output_format: str, suffix: str
) -> list[ImageTask]:
    planned = []
    for image in images:
        chosen = output_format
        if output_format == "same":
            chosen = output_format_of(image.suffix)
        planned.append((image, chosen, _target(image, root, output, chosen, suffix)))
    count = Counter(_key(target) for _, _, target in planned)
    taken = {key for key, number in count.items() if number == 1}
    tasks = []
    for image, chosen, target in planned:
        if count[_key(target)] > 1:
            # `a_jpg.png` may be another image's result already: count until a name is free
            number = 0
            addition = f"_{image.suffix[1:]}"
            target = _target(image, root, output, chosen, addition + suffix)
            while _key(target) in taken:
                number += 1
                target = _target(image, root, output, chosen, f"{addition}{number}{suffix}")
            taken.add(_key(target))
        tasks.append(ImageTask(image, target, chosen))
    return tasks


def _target(image: Path, root: Path, output: Path, output_format: str, addition: str) -> Path:
    # the image's suffix stays where it names the result's format: `.JPEG`, `.tif`
    ending = image.suffix
    if OUTPUT_SUFFIXES.get(ending.lower()) != output_format:
        ending = f".{output_format}"
    return output / image.relative_to(root).with_name(f"{image.stem}{addition}{ending}")


def _key(path: Path) -> str:
    # some file systems do not tell A from a, nor the two forms of a letter with an accent
    return unicodedata.normalize("NFC", str(path)).lower()


def _check_targets(tasks: list[ImageTask]) -> None:
    # As the system knows files: links and, on some file systems, other cases name the same.
    sources = {_file_number(task.source): task.source for task in tasks}
    for task in tasks:
        number = _file_number(task.target)
        replaced = None if number is None else sources.get(number)
        if replaced is not None:
            raise UserError(
                f"the result of {task.source} would replace the image {replaced}; "
                "choose another --output, or give --suffix"
            )


def _file_number(path: Path) -> tuple[int, int] | None:
    """Return device and number of a file; None: there is none, so nothing to replace."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
