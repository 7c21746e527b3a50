"""Score against cost: the points of the chart, values as they stand in the files."""

from collections.abc import Sequence
from typing import Any

from dhp_sr.config.methods import BASELINES
from dhp_sr.reports.page.baselines import method_of, sigmas
from dhp_sr.reports.page.formatting import COSTS, score_keys
from dhp_sr.reports.page.published import published_points
from dhp_sr.reports.run import Run
from dhp_sr.reports.scores import scores_of


def chart(runs: Sequence[Run], controls: Sequence[Run] = ()) -> dict[str, Any] | None:
    """Return what the chart needs, JSON-able; None where no run has scores and costs.

    Args:
        runs: those that the page is about.
        controls: others to show beside them.

    Returns:
        `points`; `inputs` (scores without a network); `sets`, `scores` and `costs` to choose from.
    """
    finished = [run for run in runs if run.metrics]
    points = [point for run in finished for point in _points(run, several=len(runs) > 1)]
    if not points:
        return None
    first = finished[0].results
    names = list(
        dict.fromkeys(
            name for run in finished for row in run.results["rows"] for name in row["sets"]
        )
    )
    keys = {key for run in finished for key in score_keys(run.results)}
    points += [
        {**point, "kind": "control"} for run in controls for point in _points(run, several=True)
    ]
    points += published_points(
        first.get("task"), first.get("scale"), _sigma(finished[0], names), names
    )
    scores = scores_of(finished[0].task, keys)
    if not scores:
        return None
    return {
        "points": points,
        "inputs": _inputs(finished[0]),
        "sets": [name for name in names if any(name in point["sets"] for point in points)],
        "scores": [{"key": one.key, "label": one.label, "digits": one.digits} for one in scores],
        "costs": [
            {"key": one.key, "label": one.label, "unit": one.unit, "digits": one.digits}
            for one in COSTS
        ],
    }


def _points(run: Run, several: bool) -> list[dict[str, Any]]:
    """Return one point for each network of a run; a control's dense network is another run's, so it is left out."""
    method = method_of(run.options)
    rows = [row for row in run.results["rows"] if row.get("macs") is not None]
    if method in BASELINES and several:
        rows = [row for row in rows if row["model"] != "dense"]
    return [
        {
            "kind": _kind(row["model"], method),
            "run": run.name,
            "label": f"{run.name}: {row['model']}" if several else str(row["model"]),
            "detail": _detail(row, method),
            "macs": row.get("macs"),
            "params": row.get("params"),
            "latency_ms": row.get("latency_ms"),
            "iterations": row.get("iterations"),
            "sets": row["sets"],
        }
        for row in rows
    ]


def _kind(model: str, method: str) -> str:
    if model == "dense":
        return "dense"
    return "control" if method in BASELINES else "pruned"


def _detail(row: dict[str, Any], method: str) -> str:
    if row["model"] != "dense":
        return f"cut by {method}"
    return (
        "dense, trained to the end"
        if method == "none"
        else "dense, as it was when the search began"
    )


def _inputs(run: Run) -> list[dict[str, Any]]:
    return [
        {"label": row["model"], "sets": row["sets"]}
        for row in run.results["rows"]
        if row.get("macs") is None
    ]


def _sigma(run: Run, names: Sequence[str]) -> float | None:
    found = sigmas(run.options)
    return next((found[name] for name in names if found.get(name) is not None), None)
