"""Classification sets as folders: one a class, named after it, with its images somewhere inside."""

from pathlib import Path

import numpy as np

from dhp_sr.data.images import EXTENSIONS, decode
from dhp_sr.data.labeled import LabeledImages, stacked
from dhp_sr.utils.errors import UserError

SPLITS = ("train", "val", "test")
"""Usual names of folders above the class folders."""


def read_class_folders(
    root: Path, split: str, *, side: int | None = None, color: str = "rgb"
) -> LabeledImages:
    """Read the folder `root/split`, or `root` itself where no folder is called after the split.

    Classes are numbered in the order of their names, images come in the order of their paths.

    Raises:
        UserError: A class is without images, one is damaged, or sizes differ and `side` is not given.
    """
    folder = root / split if (root / split).is_dir() else root
    classes = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    others = set(SPLITS) & set(classes)
    if folder == root and others:
        raise UserError(
            f"{root}: expected a folder {split!r} of class folders, found {', '.join(sorted(others))}"
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        inside = _pictures_in(folder / name)
        if not inside:
            advice = "fill it or remove it"
            raise UserError(
                f"{folder / name}: expected images of class {name!r}, found none: {advice}"
            )
        paths += inside
        labels += [label] * len(inside)
    images = [decode(path.read_bytes(), str(path)) for path in paths]
    stack = stacked(images, [str(path) for path in paths], side, color)
    return LabeledImages(stack, np.array(labels, np.int64), tuple(classes), str(folder))


def _pictures_in(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))
