"""The forms in which a classification set may lie on disk, and which of them a path is."""

from pathlib import Path

from dhp_sr.data.cifar import is_cifar, read_cifar, splits_of_cifar
from dhp_sr.data.class_folders import SPLITS, read_class_folders
from dhp_sr.data.images import EXTENSIONS
from dhp_sr.data.labeled import LabeledImages, checked, resized
from dhp_sr.data.labeled_lmdb import read_labeled_database, splits_of_database
from dhp_sr.data.sprite_sheets import INDEX, read_sheets, splits_of_sheets
from dhp_sr.utils.errors import UserError


def read_labeled(
    root: str | Path,
    split: str,
    *,
    labels: str = "fine",
    side: int | None = None,
    color: str = "rgb",
) -> LabeledImages:
    """Read a part of a classification set into memory.

    Args:
        root: Class folders, CIFAR's binary files, sheets with an index, or an `.lmdb` folder with labels.
        split: `train`, `test`, ...
        labels: `fine` or `coarse`, of CIFAR-100.
        side: Resize images to squares of this side; None: they have one size already.
        color: `rgb` or `grey`, what images of different kinds become.

    Raises:
        UserError: there is no such set, it is damaged or incomplete, or labels are out of range.
    """
    folder = _found(Path(root).expanduser())
    form = form_of(folder)
    if labels != "fine" and form != "cifar":
        raise UserError(
            f"{folder}: labels: {labels} is for CIFAR-100's own files, found {form}: remove it"
        )
    if form == "folders":
        return checked(read_class_folders(folder, split, side=side, color=color))
    if form == "lmdb":
        return checked(read_labeled_database(folder, split, side=side, color=color))
    return checked(
        resized(
            read_sheets(folder, split) if form == "sheets" else read_cifar(folder, split, labels),
            side,
        )
    )


def splits_in(folder: Path) -> list[str]:
    """Return the splits of a set; class folders without a folder for each split are `train`."""
    form = form_of(_found(folder))
    if form == "sheets":
        return splits_of_sheets(folder)
    if form == "lmdb":
        return splits_of_database(folder)
    if form == "cifar":
        return splits_of_cifar(folder)
    return [name for name in SPLITS if (folder / name).is_dir()] or ["train"]


def _found(folder: Path) -> Path:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        expected = "expected a folder with a classification set"
        raise UserError(f"{folder.absolute()}: {expected}, found {found}: check the path")
    return folder


def form_of(folder: Path) -> str:
    """Return `lmdb`, `sheets`, `cifar` or `folders`.

    Raises:
        UserError: the folder holds none of them.
    """
    if folder.suffix == ".lmdb":
        return "lmdb"
    if (folder / INDEX).is_file():
        return "sheets"
    if is_cifar(folder):
        return "cifar"
    paths = sorted(folder.iterdir())
    loose = [path.name for path in paths if path.suffix.lower() in EXTENSIONS]
    if loose:
        advice = f"sheets need their {INDEX}, other images a folder for each class"
        raise UserError(
            f"{folder}: expected class folders, found image files without labels ({loose[0]}, ...): {advice}"
        )
    if any(path.is_dir() and not path.name.startswith(".") for path in paths):
        return "folders"
    expected = f"expected class folders, CIFAR's *.bin files or sheets with {INDEX}"
    raise UserError(
        f"{folder}: {expected}, found {', '.join(path.name for path in paths[:5]) or 'nothing'}"
    )
