"""Numbers, costs and aligned tables as text.

Every report formats through this module, so that a number looks the same wherever it is shown.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dhp_sr.utils.cost_kinds import COST_KINDS, CostKind
from dhp_sr.utils.strict_json import JsonObject

MISSING = "-"
"""Cell of an unknown value in plain text and markdown."""
PAGE_MISSING = "\N{EN DASH}"
"""Cell of an unknown value on the page."""
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class CostColumn:
    """Column of a table, or axis of a chart, for a kind of cost."""

    kind: CostKind
    """Kind of cost; the column takes its name and unit from there."""

    @property
    def key(self) -> str:
        """Key of the value in the rows of metrics.json."""
        if self.kind.is_measured:
            return f"{self.kind.name}_{self.kind.unit}"  # latency_ms
        return self.kind.name

    @property
    def unit(self) -> str:
        """Unit of the values shown: `G`, `M` or `ms`."""
        return self.kind.prefix or self.kind.unit

    @property
    def digits(self) -> int:
        """Decimal places shown."""
        # Measured values fluctuate by percents; further digits would be noise.
        return 1 if self.kind.is_measured else 3

    @property
    def heading(self) -> str:
        """Heading of a column: `MACs G`."""
        return f"{self.kind.label} {self.unit}"

    @property
    def axis_label(self) -> str:
        """Name with unit beside an axis: `MACs, G`."""
        return f"{self.kind.label}, {self.unit}"


def cost_columns(rows: Iterable[JsonObject]) -> list[CostColumn]:
    """Choose the columns of the kinds of cost that rows of metrics.json hold, known or None."""
    keys: set[str] = set()
    for row in rows:
        keys.update(row)
    columns = map(CostColumn, COST_KINDS.values())
    return [column for column in columns if column.key in keys]


def number(value: float | None, digits: int = 2, divisor: float = 1.0) -> str:
    """Format a number without grouping, for plain text and markdown.

    Args:
        value: The number; None gives `MISSING`.
        digits: Decimal places.
        divisor: Size of the unit to show the value in.
    """
    if value is None:
        return MISSING
    return f"{value / divisor:.{digits}f}"


def page_number(value: float | None, digits: int, divisor: float = 1.0) -> str:
    """Format a number for the page, thousands separated by commas; None gives `PAGE_MISSING`."""
    if value is None:
        return PAGE_MISSING
    return f"{value / divisor:,.{digits}f}"


def kept_percent(value: float | None, dense_value: float | None) -> str:
    """Format the kept fraction of a dense cost for the page; `PAGE_MISSING` if it is unknown."""
    if not value or not dense_value:
        return PAGE_MISSING
    return f"{value / dense_value:.1%}"


def signed_difference(value: float, reference: float, digits: int) -> str:
    """Format `value - reference` with its sign, a typographic minus included."""
    return f"{value - reference:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def shape_text(shape: Sequence[int], separator: str = "x") -> str:
    """Join the sizes of a shape: `3x128x128`."""
    return separator.join(map(str, shape))


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Format a table as plain text, a rule below its header.

    Args:
        cells: Header, then rows of the same length; the first column is aligned to the left, the
            others to the right.
    """
    rule = ["-" * width for width in _column_widths(cells)]
    header, *rows = pad_columns(cells)
    text = ""
    for row in (header, rule, *rows):
        # Padding at the end of a line would be invisible, and a nuisance in diffs.
        text += "  ".join(row).rstrip() + "\n"
    return text


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Format a table in markdown, its source aligned too.

    Args:
        cells: Header, then rows of the same length; the first column is aligned to the left, the
            others to the right.
    """
    # A bar inside a cell, for example in the name of a run, would end the cell.
    escaped = []
    for row in cells:
        escaped.append([cell.replace("|", r"\|") for cell in row])
    # Markdown wants at least three characters in a rule; a colon aligns a column to the right.
    first_width, *other_widths = _column_widths(escaped, least=3)
    rule = ["-" * first_width]
    for width in other_widths:
        rule.append("-" * (width - 1) + ":")
    header, *rows = pad_columns(escaped, least=3)
    text = ""
    for row in (header, rule, *rows):
        text += f"| {' | '.join(row)} |\n"
    return text


def pad_columns(
    cells: Sequence[Sequence[str]], left: Collection[int] = (0,), least: int = 0
) -> list[list[str]]:
    """Pad the cells of every column to the width of its longest cell.

    Args:
        cells: Rows of the same length.
        left: Indices of the columns aligned to the left.
        least: Smallest width of a column in characters.
    """
    widths = _column_widths(cells, least)
    padded_rows = []
    for row in cells:
        padded = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            # Names read best from the left; digits line up from the right.
            padded.append(cell.ljust(width) if index in left else cell.rjust(width))
        padded_rows.append(padded)
    return padded_rows


def _column_widths(cells: Sequence[Sequence[str]], least: int = 0) -> list[int]:
    widths = []
    for column in zip(*cells, strict=True):
        widths.append(max(least, *map(len, column)))
    return widths
