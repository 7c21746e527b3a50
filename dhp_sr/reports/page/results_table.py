"""Table of results on the page: cells as text, and the value behind each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dhp_sr.reports.formatting import (
    PAGE_MISSING,
    CostColumn,
    cost_columns,
    kept_percent,
    page_number,
)
from dhp_sr.reports.run import Row, Run, dense_row, score_keys, set_names
from dhp_sr.reports.scores import NUM_TABLE_SCORES, Score, scores_of


@dataclass(frozen=True)
class Cell:
    """Cell of the table."""

    text: str
    """Text shown."""
    value: float | None = None
    """Value as in metrics.json, None for a cell of text."""


@dataclass(frozen=True)
class ColumnGroup:
    """Columns under a common heading."""

    title: str
    """Common heading, empty where the names suffice."""
    names: tuple[str, ...]
    """Heading of each column."""


@dataclass(frozen=True)
class Table:
    """Table with two rows of headings."""

    column_groups: tuple[ColumnGroup, ...]
    """Headings from left to right."""
    rows: tuple[tuple[Cell, ...], ...]
    """Rows of as many cells as there are names in `column_groups`."""


def results_table(runs: Sequence[Run]) -> Table | None:
    """Build the table of all models, a row each; None if no run is finished.

    With several runs the first column names the run.
    """
    finished = [run for run in runs if run.rows]
    if not finished:
        return None
    all_rows: list[Row] = []
    for run in finished:
        all_rows += run.rows
    sets = set_names(all_rows)
    scores = scores_of(finished[0].task, score_keys(all_rows))[:NUM_TABLE_SCORES]
    costs = cost_columns(all_rows)
    several = len(runs) > 1
    table_rows = []
    for run, rows in zip(finished, without_repeated_inputs(finished), strict=True):
        dense = dense_row(run.rows)
        for row in rows:
            dense_costs = dense or reported_dense_costs(run, row)
            cells = build_score_cells(row, sets, scores) + build_cost_cells(row, dense_costs, costs)
            if several:
                cells.insert(0, Cell(run.name))
            table_rows.append(tuple(cells))
    return Table(build_column_groups(several, sets, scores, costs), tuple(table_rows))


def without_repeated_inputs(runs: Sequence[Run]) -> list[list[Row]]:
    """Return the rows of each run, without inputs that scored alike in a run before it."""
    inputs: list[Row] = []
    shown = []
    for run in runs:
        rows = [row for row in run.rows if row not in inputs]
        # Only an input, such as bicubic upscaling, has no costs.
        inputs += [row for row in rows if row.get("macs") is None]
        shown.append(rows)
    return shown


def reported_dense_costs(run: Run, row: Row) -> Row:
    """Costs of a dense network that was not scored, from the fractions that its cut reports."""
    achieved = run.results.get("achieved")
    # A run with several targets has a list of fractions, which name no models.
    if not isinstance(achieved, Mapping) or row["model"] != "pruned":
        return {}
    costs = {}
    for column in cost_columns([row]):
        value, ratio = row.get(column.key), achieved.get(column.kind.ratio_key)
        if value and ratio:
            costs[column.key] = value / ratio
    return costs


def build_column_groups(
    several: bool, sets: Sequence[str], scores: Sequence[Score], costs: Sequence[CostColumn]
) -> tuple[ColumnGroup, ...]:
    """Head the columns that the cells of scores and costs fill."""
    first_names: tuple[str, ...] = ("model", "iterations")
    if several:
        first_names = ("run", *first_names)
    groups = [ColumnGroup("", first_names)]
    if scores:
        labels = tuple(score.label for score in scores)
        for name in sets:
            groups.append(ColumnGroup(name, labels))
    for column in costs:
        names = (column.unit,) if column.kind.is_measured else (column.unit, "kept")
        groups.append(ColumnGroup(column.kind.label, names))
    return tuple(groups)


def build_score_cells(row: Row, sets: Sequence[str], scores: Sequence[Score]) -> list[Cell]:
    """Format name, iterations and scores of a row of metrics.json."""
    iterations = row.get("iterations")
    cells = [Cell(str(row["model"])), Cell(page_number(iterations, 0), iterations)]
    for name in sets:
        values = row["sets"].get(name, {})
        for score in scores:
            value = values.get(score.key)
            cells.append(Cell(page_number(value, score.digits), value))
    return cells


def build_cost_cells(row: Row, dense: Row, costs: Sequence[CostColumn]) -> list[Cell]:
    """Format the costs of a row; `dense` has the costs that kept fractions refer to."""
    cells = []
    for column in costs:
        value = row.get(column.key)
        cells.append(Cell(page_number(value, column.digits, column.kind.divisor), value))
        if column.kind.is_measured:
            continue  # it fluctuates too much for a percentage
        kept = kept_percent(value, dense.get(column.key))
        # "100 %" beside the dense network would say nothing.
        cells.append(Cell(PAGE_MISSING if row is dense else kept))
    return cells
