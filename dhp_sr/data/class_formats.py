"""The formats in which a classification set may lie on disk, and which of them a path has."""

from pathlib import Path

import numpy as np

from dhp_sr.data.cifar import is_cifar, read_cifar, splits_of_cifar
from dhp_sr.data.images import decode
from dhp_sr.data.labeled import LabeledImages, checked, resized, stacked
from dhp_sr.data.labeled_tables import (
    INDEX,
    read_labeled_database,
    read_sheets,
    splits_of_database,
    splits_of_sheets,
)
from dhp_sr.data.sources import image_paths
from dhp_sr.images.formats import SUFFIXES
from dhp_sr.utils.errors import UserError, abbreviate
from dhp_sr.utils.files import walk_folder

SPLITS = ("train", "val", "test")
"""Usual names of folders above the class folders."""


def read_labeled(
    root: str | Path,
    split: str,
    *,
    labels: str = "fine",
    side: int | None = None,
    color: str = "rgb",
) -> LabeledImages:
    """Read a split of a classification set into memory.

    Args:
        root: Class folders, CIFAR's binary files, sheets with an index, or an `.lmdb` folder with
            labels.
        split: `train`, `test`, ...
        labels: `fine` or `coarse`, of CIFAR-100.
        side: Resize images to squares of this side; None: they have the same size already.
        color: `rgb` or gray, which images of different kinds become.

    Raises:
        UserError: There is no such set, it is damaged or incomplete, or labels are out of range.
    """
    folder = _existing(Path(root).expanduser())
    set_format = format_of(folder)
    # a setting that has no effect is a mistake, not a detail
    if labels != "fine" and set_format != "cifar":
        raise UserError(
            f"{folder}: labels: {labels} is for CIFAR-100's files, got {set_format}: remove it"
        )
    if set_format == "folders":
        return checked(read_class_folders(folder, split, side=side, color=color))
    if set_format == "lmdb":
        return checked(read_labeled_database(folder, split, side=side, color=color))
    if set_format == "sheets":
        return checked(resized(read_sheets(folder, split), side))
    return checked(resized(read_cifar(folder, split, labels), side))


def read_class_folders(
    root: Path, split: str, *, side: int | None = None, color: str = "rgb"
) -> LabeledImages:
    """Read the folder `root/split`, or `root` itself where no folder is called after the split.

    A class is a folder, named after it, with its images anywhere inside. Classes are numbered in
    the order of their names, images come in the order of their paths.

    Raises:
        UserError: A class is without images, an image is damaged, or sizes differ and `side` is not
            given.
    """
    folder = root / split if (root / split).is_dir() else root
    classes = sorted(path.name for path in folder.iterdir() if _is_class_folder(path))
    # with `train` missing, `test` and `val` would pass for two classes
    other_splits = set(SPLITS) & set(classes)
    if folder == root and other_splits:
        raise UserError(
            f"{root}: expected a folder {split!r} of class folders, "
            f"got {', '.join(sorted(other_splits))}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = image_paths(walk_folder(folder / name))
        if not images:
            raise UserError(
                f"{folder / name}: expected images of class {name!r}, got none: "
                "fill it or remove it"
            )
        paths += images
        labels += [label] * len(images)
    names = list(map(str, paths))
    images_HWC = [decode(path, name) for path, name in zip(paths, names, strict=True)]
    stack = stacked(images_HWC, names, side, color)
    return LabeledImages(stack, np.array(labels, np.int64), tuple(classes), str(folder))


def splits_in(folder: Path) -> list[str]:
    """List the splits of a set; class folders without a folder for each split are `train`."""
    set_format = format_of(_existing(folder))
    if set_format == "sheets":
        return splits_of_sheets(folder)
    if set_format == "lmdb":
        return splits_of_database(folder)
    if set_format == "cifar":
        return splits_of_cifar(folder)
    return [name for name in SPLITS if (folder / name).is_dir()] or ["train"]


def format_of(folder: Path) -> str:
    """Return `lmdb`, `sheets`, `cifar` or `folders`.

    Raises:
        UserError: The folder holds none of them.
    """
    if folder.suffix == ".lmdb":
        return "lmdb"
    # the index decides: sheets alone are loose image files
    if (folder / INDEX).is_file():
        return "sheets"
    if is_cifar(folder):
        return "cifar"
    paths = sorted(folder.iterdir())
    # loose images beside class folders are a mistake: they would be left out
    for path in paths:
        if path.suffix.lower() in SUFFIXES:
            raise UserError(
                f"{folder}: expected class folders, got image files without labels "
                f"({path.name}, ...): sheets need their {INDEX}, other images a folder for each "
                "class"
            )
    if any(map(_is_class_folder, paths)):
        return "folders"
    names = abbreviate([path.name for path in paths]) or "nothing"
    raise UserError(
        f"{folder}: expected class folders, CIFAR's *.bin files or sheets with {INDEX}, got {names}"
    )


def _is_class_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing"
        raise UserError(
            f"{folder.absolute()}: expected a folder with a classification set, got {got}: "
            "check the path (datasets/README.md says where images are looked for)"
        )
    return folder
