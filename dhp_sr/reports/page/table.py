"""The table of results: cells as text, and the value behind each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dhp_sr.reports.page.formatting import COSTS, MISSING, number, percent, score_keys
from dhp_sr.reports.run import Run
from dhp_sr.reports.scores import COLUMNS, Score, scores_of

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell of the table."""

    text: str
    """What is shown."""
    value: float | None = None
    """As in metrics.json."""


@dataclass(frozen=True)
class Column:
    """Columns under one heading."""

    title: str
    """Empty where the names say all."""
    names: tuple[str, ...]
    """One for each column."""


@dataclass(frozen=True)
class Table:
    """A table."""

    columns: tuple[Column, ...]
    """The heading."""
    rows: tuple[tuple[Cell, ...], ...]
    """As many cells each as there are names."""


def results_table(runs: Sequence[Run]) -> Table | None:
    """Return the models of all runs, one row each; None where no run is finished.

    Args:
        runs: those that the page is about; with several, the first column names the run, and inputs that scored alike
            stand there once.
    """
    finished = [run for run in runs if run.metrics and run.results.get("rows")]
    if not finished:
        return None
    several = len(runs) > 1
    sets = list(
        dict.fromkeys(
            name for run in finished for row in run.results["rows"] for name in row["sets"]
        )
    )
    keys = {key for run in finished for key in score_keys(run.results)}
    scores = scores_of(finished[0].task, keys)[:COLUMNS]
    seen: list[Row] = []
    rows = []
    for run in finished:
        dense: Row = next((row for row in run.results["rows"] if row["model"] == "dense"), {})
        for row in run.results["rows"]:
            if row.get("macs") is None and row in seen:
                continue
            seen.append(row)
            first = [Cell(run.name)] if several else []
            rows.append((*first, *_cells(row, dense or _dense(run, row), sets, scores)))
    return Table(_columns(several, sets, scores), tuple(rows))


def _dense(run: Run, row: Row) -> Row:
    """Return the costs of a dense network that was not scored, from what the cut reports to have kept."""
    achieved = run.results.get("achieved")
    ratios = achieved if isinstance(achieved, Mapping) and row["model"] == "pruned" else {}
    found = {cost.key: (row.get(cost.key), ratios.get(f"{cost.key}_ratio")) for cost in COSTS}
    return {key: value / ratio for key, (value, ratio) in found.items() if value and ratio}


def _columns(several: bool, sets: Sequence[str], scores: Sequence[Score]) -> tuple[Column, ...]:
    names = tuple(score.label for score in scores)
    return (
        Column("", ("run", "model", "iterations") if several else ("model", "iterations")),
        *(Column(name, names) for name in sets if names),
        Column("multiply-adds", ("G", "kept")),
        Column("parameters", ("M", "kept")),
        Column("latency", ("ms",)),
    )


def _cells(row: Row, dense: Row, sets: Sequence[str], scores: Sequence[Score]) -> list[Cell]:
    iterations = row.get("iterations")
    cells = [Cell(str(row["model"])), Cell(number(iterations, 0), iterations)]
    for name in sets:
        found = row["sets"].get(name, {})
        cells += [
            Cell(number(found.get(score.key), score.digits), found.get(score.key))
            for score in scores
        ]
    for cost in COSTS:
        value = row.get(cost.key)
        cells.append(Cell(number(value, cost.digits, cost.unit), value))
        if cost.key != "latency_ms":
            cells.append(Cell(MISSING if row is dense else percent(value, dense.get(cost.key))))
    return cells
