"""The results of a run as a table: one row per model, two columns per test set."""

from collections.abc import Mapping, Sequence
from typing import Any

from dhp_sr.reports.scores import COLUMNS, MISSING, scores_of


def text_table(metrics: Mapping[str, Any]) -> str:
    """Return the results as text with aligned columns.

    Args:
        metrics: the contents of `metrics.json`.
    """
    return aligned(_cells(metrics))


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Return a table as text.

    Args:
        cells: the header, then the rows; the first column is aligned to the left, the others to the right.
    """
    header, *rows = cells
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [_aligned(row, widths) for row in (header, *rows)]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]]) + "\n"


def markdown_table(metrics: Mapping[str, Any]) -> str:
    """Return the results as a table in markdown, its source aligned too.

    Args:
        metrics: the contents of `metrics.json`.
    """
    return markdown(_cells(metrics))


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Return a table in markdown.

    Args:
        cells: the header, then the rows; the first column is aligned to the left, the others to the right.
    """
    header, *rows = [[cell.replace("|", r"\|") for cell in row] for row in cells]
    widths = [
        max(3, *(len(row[column]) for row in [header, *rows])) for column in range(len(header))
    ]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [header, rule, *rows]
    return "\n".join(f"| {_aligned(line, widths, ' | ', strip=False)} |" for line in lines) + "\n"


def _aligned(
    cells: Sequence[str], widths: Sequence[int], between: str = "  ", strip: bool = True
) -> str:
    first = cells[0].ljust(widths[0])
    line = between.join(
        [first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
    )
    return line.rstrip() if strip else line


def _cells(metrics: Mapping[str, Any]) -> list[list[str]]:
    rows = metrics["rows"]
    sets = list(dict.fromkeys(name for row in rows for name in row["sets"]))
    columns = scores_of(metrics.get("task"))[:COLUMNS]
    dense: Mapping[str, Any] = next((row for row in rows if row["model"] == "dense"), {})
    header = ["model", "iterations"]
    for name in sets:
        header += [f"{name} {columns[0].heading}", *(score.heading for score in columns[1:])]
    table = [[*header, "MACs G", "params M", "latency ms"]]
    for row in rows:
        found = [row["sets"].get(name, {}) for name in sets]
        table.append(
            [
                str(row["model"]),
                number(row.get("iterations"), "{:,}"),
                *(score.text(one.get(score.key)) for one in found for score in columns),
                _cost(row.get("macs"), dense.get("macs"), 1e9),
                _cost(row.get("params"), dense.get("params"), 1e6),
                number(row.get("latency_ms"), "{:.1f}"),
            ]
        )
    return table


def number(value: float | None, form: str = "{:.2f}") -> str:
    """Return a number as text, and what is not known as a dash."""
    return MISSING if value is None else form.format(value)


def _cost(value: float | None, dense: float | None, unit: float) -> str:
    if value is None:
        return MISSING
    number = f"{value / unit:.3f}"
    return number if not dense or value == dense else f"{number} ({value / dense:.1%})"
