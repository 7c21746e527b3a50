"""Classification sets as databases: BasicSR's layout, and a table of labels beside it.

`x.lmdb/labels.tsv` has the columns key, split, class, label; `data.mdb` and `meta_info.txt` are those of `lmdb_read`.
"""

from pathlib import Path

import numpy as np

from dhp_sr.data.images import decode
from dhp_sr.data.labeled import LabeledImages, class_names, stacked
from dhp_sr.data.lmdb_read import Database
from dhp_sr.data.tsv import read_table
from dhp_sr.utils.errors import UserError

LABELS = "labels.tsv"
COLUMNS = ("key", "split", "class", "label")


def read_labeled_database(
    folder: Path, split: str, *, side: int | None = None, color: str = "rgb"
) -> LabeledImages:
    """Read the images of a split, in the order of the table.

    Raises:
        UserError: the table is missing or wrong, a key is not in the database, or an image is damaged.
    """
    database, rows = Database(folder), _rows(folder / LABELS)
    classes = class_names(
        folder / LABELS, ((name, int(label), key) for key, _, name, label in rows)
    )
    wanted = [(key, int(label)) for key, part, _, label in rows if part == split]
    if not wanted:
        splits = ", ".join(splits_of_database(folder))
        raise UserError(
            f"{folder / LABELS}: expected images of split {split!r}, found {splits}: correct `split`"
        )
    keys = [key for key, _ in wanted]
    images = [
        decode(data, f"{folder}, key {key}")
        for key, data in zip(keys, database.read_many(keys), strict=True)
    ]
    labels = np.array([label for _, label in wanted], np.int64)
    return LabeledImages(stacked(images, keys, side, color), labels, classes, str(folder))


def splits_of_database(folder: Path) -> list[str]:
    """Return the splits in the table of labels."""
    return sorted({row[1] for row in _rows(folder / LABELS)}, reverse=True)


def _rows(path: Path) -> list[list[str]]:
    if not path.is_file():
        advice = "make the LMDB with `scripts/prepare_data.py classes`"
        raise UserError(
            f"{path.parent}: expected the file {path.name} with the labels, found none: {advice}"
        )
    rows = read_table(path, COLUMNS, "the table of labels")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(COLUMNS) or not row[3].isdecimal():
            raise UserError(
                f"{path}, line {number}: expected key, split, class and label, found {row}: correct the line"
            )
    return rows
