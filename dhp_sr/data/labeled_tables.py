"""Classification sets listed in a table: sprite sheets, and image databases with labels.

Sprite sheets are image files of many small images side by side. `INDEX.tsv` has the columns sheet,
row, col, class, label. A sheet is called `<split>_<anything>`; its images are square, and as large
as its width and the highest column in the index make them.

`x.lmdb/labels.tsv` has the columns key, split, class, label; `data.mdb` and `meta_info.txt` are
those of `lmdb_read`.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dhp_sr.data.images import decode, to_color
from dhp_sr.data.labeled import LabeledImages, class_names, stacked
from dhp_sr.data.lmdb_read import Database
from dhp_sr.data.sources import image_paths
from dhp_sr.utils.errors import UserError

INDEX = "INDEX.tsv"
INDEX_COLUMNS = ("sheet", "row", "col", "class", "label")
LABELS = "labels.tsv"
LABEL_COLUMNS = ("key", "split", "class", "label")


def read_table(path: Path, columns: Sequence[str], description: str) -> list[list[str]]:
    """Read a table of text whose columns are separated by tabs.

    Args:
        path: The file.
        columns: Names that its first line must hold, in this order.
        description: Description of the file, for messages.

    Returns:
        The cells of the lines after the first; empty lines are left out.

    Raises:
        UserError: It cannot be read as UTF-8 text, or has other columns.
    """
    try:
        # "utf-8-sig": editors on Windows put a byte-order mark in front
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, delimiter="\t") if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected {description}, got: {error}") from error
    if not rows or rows[0] != list(columns):
        got = rows[0] if rows else "none"
        raise UserError(f"{path}, line 1: expected the columns {', '.join(columns)}, got {got}")
    return rows[1:]


def table_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as text, as `read_table` reads it."""
    text = io.StringIO()
    # Quotes and tabs in the name of a class are quoted, as the reader expects.
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerows([columns, *rows])
    return text.getvalue()


class Sprite(NamedTuple):
    """A line of the index: an image on a sheet."""

    sheet: str
    row: int
    col: int
    name: str
    """Name of the class."""
    label: int

    @property
    def split(self) -> str:
        """Split that the sheet's name begins with."""
        return self.sheet.split("_")[0]


def read_sheets(folder: Path, split: str) -> LabeledImages:
    """Read the images on all sheets of a split, in the order of the index.

    Raises:
        UserError: Index and sheets do not agree, or a sheet is damaged.
    """
    sprites = _read_index(folder / INDEX)
    _check_sheets(folder, sprites)
    selected = [sprite for sprite in sprites if sprite.split == split]
    if not selected:
        splits = ", ".join(splits_of_sheets(folder))
        raise UserError(
            f"{folder / INDEX}: expected sheets of split {split!r}, got {splits}: correct `split`"
        )
    indices_by_sheet: dict[str, list[int]] = {}
    for index, sprite in enumerate(selected):
        indices_by_sheet.setdefault(sprite.sheet, []).append(index)
    images: dict[int, np.ndarray] = {}
    for sheet, indices in indices_by_sheet.items():
        cut = _cut_sheet(folder / sheet, [selected[index] for index in indices])
        images.update(zip(indices, cut, strict=True))
    # sides follow from each sheet: sheets of another resolution would be noticed only here
    shapes = {image.shape for image in images.values()}
    if len(shapes) > 1:
        raise UserError(
            f"{folder}: expected images of the same size, got {sorted(shapes)}: "
            "make the sheets again"
        )
    labels = np.array([sprite.label for sprite in selected], np.int64)
    # read sheet by sheet, but in the order of the index
    stack = np.stack([images[index] for index in range(len(selected))])
    rows = []
    for sprite in sprites:
        where = f"{sprite.sheet}, row {sprite.row}, col {sprite.col}"
        rows.append((sprite.name, sprite.label, where))
    return LabeledImages(stack, labels, class_names(folder / INDEX, rows), str(folder))


def splits_of_sheets(folder: Path) -> list[str]:
    """List the splits that the index names."""
    # reversed: "train" comes before "test"
    return sorted({sprite.split for sprite in _read_index(folder / INDEX)}, reverse=True)


def _read_index(path: Path) -> list[Sprite]:
    sprites = []
    rows = read_table(path, INDEX_COLUMNS, "the index of the sheets")
    for number, row in enumerate(rows, start=2):
        try:
            sheet, line, column, name, label = row
            sprite = Sprite(sheet, int(line), int(column), name, int(label))
        except ValueError:
            raise UserError(
                f"{path}, line {number}: expected sheet, row, column, class and label, "
                f"got {row}: correct the line"
            ) from None
        # a sheet lies beside its index: no path may lead out of the folder
        if min(sprite.row, sprite.col) < 0 or Path(sheet).name != sheet:
            raise UserError(
                f"{path}, line {number}: expected a file's name and a position in it, got {row}"
            )
        sprites.append(sprite)
    return sprites


def _check_sheets(folder: Path, sprites: Sequence[Sprite]) -> None:
    listed = {sprite.sheet for sprite in sprites}
    # both ways: a sheet that nothing lists would be left out in silence
    present = {path.name for path in image_paths(folder.iterdir())}
    differences = {
        "in the index, not in the folder": sorted(listed - present),
        "not in the index": sorted(present - listed),
    }
    for difference, names in differences.items():
        if names:
            raise UserError(
                f"{folder}: expected {INDEX} to list the sheets, "
                f"got {', '.join(names[:5])} {difference}"
            )


def _cut_sheet(path: Path, sprites: Sequence[Sprite]) -> list[np.ndarray]:
    sheet = to_color(decode(path, str(path)), "rgb")
    height, width = sheet.shape[:2]
    columns = 1
    rows = 1
    for sprite in sprites:
        columns = max(columns, sprite.col + 1)
        rows = max(rows, sprite.row + 1)
    # the index does not state the side: a sheet that is cut short gives a fraction
    side = width // columns
    if side < 1 or width != side * columns or height != side * rows:
        raise UserError(
            f"{path}: expected square images, {columns} across and {rows} down as its index says, "
            f"got {width}x{height} pixels: the sheet or {INDEX} is cut short"
        )
    images = []
    for sprite in sprites:
        top = sprite.row * side
        left = sprite.col * side
        images.append(sheet[top : top + side, left : left + side])
    return images


def read_labeled_database(
    folder: Path, split: str, *, side: int | None = None, color: str = "rgb"
) -> LabeledImages:
    """Read the images of a split, in the order of the table.

    Raises:
        UserError: The table is missing or wrong, a key is not in the database, or an image is
            damaged.
    """
    database = Database(folder)
    rows = _read_labels(folder / LABELS)
    named: list[tuple[str, int, str]] = []
    keys: list[str] = []
    labels: list[int] = []
    for key, row_split, name, label in rows:
        # the classes are those of all splits: labels are the same in each
        named.append((name, int(label), key))
        if row_split == split:
            keys.append(key)
            labels.append(int(label))
    classes = class_names(folder / LABELS, named)
    if not keys:
        splits = ", ".join(splits_of_database(folder))
        raise UserError(
            f"{folder / LABELS}: expected images of split {split!r}, got {splits}: correct `split`"
        )
    images = []
    for key, data in zip(keys, database.read_many(keys), strict=True):
        images.append(decode(data, f"{folder}, key {key}"))
    stack = stacked(images, keys, side, color)
    return LabeledImages(stack, np.array(labels, np.int64), classes, str(folder))


def splits_of_database(folder: Path) -> list[str]:
    """List the splits in the table of labels."""
    return sorted({row[1] for row in _read_labels(folder / LABELS)}, reverse=True)


def _read_labels(path: Path) -> list[list[str]]:
    if not path.is_file():
        raise UserError(
            f"{path.parent}: expected the file {path.name} with the labels, got none: "
            "make the LMDB with `scripts/prepare_data.py classes`"
        )
    rows = read_table(path, LABEL_COLUMNS, "the table of labels")
    for number, row in enumerate(rows, start=2):
        # isdecimal: int() would take signs, spaces and underscores
        if len(row) != len(LABEL_COLUMNS) or not row[3].isdecimal():
            raise UserError(
                f"{path}, line {number}: expected key, split, class and label, got {row}: "
                "correct the line"
            )
    return rows
