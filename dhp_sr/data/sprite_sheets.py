"""Classification sets as sheets: many small images side by side in one image file, and an index of them.

`INDEX.tsv` has the columns sheet, row, col, class, label. A sheet is called `<split>_<anything>`; its tiles are square
and as large as its width and the highest column in the index make them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dhp_sr.data.images import EXTENSIONS, decode, to_color
from dhp_sr.data.labeled import LabeledImages, class_names
from dhp_sr.data.tsv import read_table
from dhp_sr.utils.errors import UserError

INDEX = "INDEX.tsv"
COLUMNS = ("sheet", "row", "col", "class", "label")


class Tile(NamedTuple):
    """A line of the index."""

    sheet: str
    row: int
    col: int
    name: str
    label: int


def read_sheets(folder: Path, split: str) -> LabeledImages:
    """Read the tiles of all sheets of a split, in the order of the index.

    Raises:
        UserError: index and sheets do not agree, or a sheet is damaged.
    """
    tiles = _index(folder / INDEX)
    _check_sheets(folder, tiles)
    wanted = [tile for tile in tiles if tile.sheet.split("_")[0] == split]
    if not wanted:
        splits = ", ".join(splits_of_sheets(folder))
        raise UserError(
            f"{folder / INDEX}: expected sheets of split {split!r}, found {splits}: correct `split`"
        )
    images: dict[int, np.ndarray] = {}
    for sheet in dict.fromkeys(tile.sheet for tile in wanted):
        own = [(place, tile) for place, tile in enumerate(wanted) if tile.sheet == sheet]
        cut = _cut(folder / sheet, [tile for _, tile in own])
        images.update({place: image for (place, _), image in zip(own, cut, strict=True)})
    shapes = {image.shape for image in images.values()}
    if len(shapes) > 1:
        raise UserError(
            f"{folder}: expected tiles of one size, found {sorted(shapes)}: make the sheets again"
        )
    stack = np.stack([images[place] for place in range(len(wanted))])
    labels = np.array([tile.label for tile in wanted], np.int64)
    rows = (
        (tile.name, tile.label, f"{tile.sheet}, row {tile.row}, col {tile.col}") for tile in tiles
    )
    return LabeledImages(stack, labels, class_names(folder / INDEX, rows), str(folder))


def splits_of_sheets(folder: Path) -> list[str]:
    """Return the splits that the index names."""
    return sorted({tile.sheet.split("_")[0] for tile in _index(folder / INDEX)}, reverse=True)


def _index(path: Path) -> list[Tile]:
    rows = read_table(path, COLUMNS, "the index of the sheets")
    return [_tile(path, number, row) for number, row in enumerate(rows, start=2)]


def _tile(path: Path, number: int, row: Sequence[str]) -> Tile:
    try:
        sheet, line, column, name, label = row
        tile = Tile(sheet, int(line), int(column), name, int(label))
    except ValueError:
        expected = "expected sheet, row, column, class and label"
        raise UserError(
            f"{path}, line {number}: {expected}, found {row}: correct the line"
        ) from None
    if min(tile.row, tile.col) < 0 or Path(sheet).name != sheet:
        raise UserError(
            f"{path}, line {number}: expected a file's name and a place in it, found {row}"
        )
    return tile


def _check_sheets(folder: Path, tiles: Sequence[Tile]) -> None:
    listed = {tile.sheet for tile in tiles}
    there = {path.name for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS}
    for names, text in (
        (sorted(listed - there), "in the index, not in the folder"),
        (sorted(there - listed), "not in the index"),
    ):
        if names:
            raise UserError(
                f"{folder}: expected {INDEX} to list the sheets, found {', '.join(names[:5])} {text}"
            )


def _cut(path: Path, tiles: Sequence[Tile]) -> list[np.ndarray]:
    sheet = to_color(decode(path.read_bytes(), str(path)), "rgb")
    height, width = sheet.shape[:2]
    columns, rows = max(tile.col for tile in tiles) + 1, max(tile.row for tile in tiles) + 1
    side = width // columns
    if side < 1 or width != side * columns or height != side * rows:
        expected = f"expected square tiles, {columns} across and {rows} down as its index says"
        raise UserError(
            f"{path}: {expected}, found {width}x{height} pixels: the sheet or {INDEX} is cut short"
        )
    return [
        sheet[one.row * side : (one.row + 1) * side, one.col * side : (one.col + 1) * side]
        for one in tiles
    ]
