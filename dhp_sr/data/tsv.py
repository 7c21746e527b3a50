"""Tables of text, columns separated by tabs, the first line their names."""

import csv
from collections.abc import Sequence
from pathlib import Path

from dhp_sr.utils.errors import UserError


def read_table(path: Path, columns: Sequence[str], what: str) -> list[list[str]]:
    """Return the lines of a table after its first one, cell by cell.

    Args:
        path: The file.
        columns: What its first line must name, in this order.
        what: What the file is, for messages.

    Raises:
        UserError: it cannot be read as UTF-8 text, or has other columns.
    """
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected {what}, found: {error}") from error
    if not rows or rows[0] != list(columns):
        found = rows[0] if rows else "none"
        raise UserError(f"{path}, line 1: expected the columns {', '.join(columns)}, found {found}")
    return rows[1:]


def table_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as text, as `read_table` reads it."""
    return "".join("\t".join(map(str, row)) + "\n" for row in (columns, *rows))
