"""The forms in which a classification set may lie on disk, and which of them a path is."""

from pathlib import Path

from dhp_sr.data.cifar import is_cifar, read_cifar
from dhp_sr.data.class_folders import read_class_folders
from dhp_sr.data.images import EXTENSIONS
from dhp_sr.data.labelled import Pictures, checked
from dhp_sr.data.labelled_lmdb import read_labelled_database
from dhp_sr.data.sheets import INDEX, read_sheets
from dhp_sr.utils.errors import UserError


def read_pictures(
    root: str | Path, split: str, *, labels: str = "fine", side: int | None = None, color: str = "rgb"
) -> Pictures:
    """Read a part of a classification set into memory.

    Args:
        root: Class folders, CIFAR's binary files, sheets with an index, or an `.lmdb` folder with labels.
        split: `train`, `test`, ...
        labels: `fine` or `coarse`, of CIFAR-100.
        side: Resize pictures to squares of this side; None: they have one size already.
        color: `rgb` or `grey`, what pictures of different kinds become.

    Raises:
        UserError: there is no such set, it is damaged or incomplete, or labels are out of range.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise UserError(
            f"{folder.absolute()}: expected a folder with a classification set, found {found}: check the path"
        )
    form = form_of(folder)
    if labels != "fine" and form != "cifar":
        raise UserError(f"{folder}: labels: {labels} is for CIFAR-100's own files, found {form}: remove it")
    if form == "folders":
        return checked(read_class_folders(folder, split, side=side, color=color))
    if form == "lmdb":
        return checked(read_labelled_database(folder, split, side=side, color=color))
    if side is not None:
        raise UserError(f"{folder}: size (={side}) is for class folders and LMDBs, found {form}: remove it")
    return checked(read_sheets(folder, split) if form == "sheets" else read_cifar(folder, split, labels))


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
        advice = f"sheets need their {INDEX}, other pictures a folder for each class"
        raise UserError(
            f"{folder}: expected class folders, found image files without labels ({loose[0]}, ...): {advice}"
        )
    if any(path.is_dir() and not path.name.startswith(".") for path in paths):
        return "folders"
    expected = f"expected class folders, CIFAR's *.bin files or sheets with {INDEX}"
    raise UserError(f"{folder}: {expected}, found {', '.join(path.name for path in paths[:5]) or 'nothing'}")
