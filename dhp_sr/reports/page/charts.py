"""Data of the interactive charts: score against cost, and the curves of training.

The values are those of the run's files; the page's scripts draw them.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TypedDict

from dhp_sr.reports.formatting import cost_columns
from dhp_sr.reports.page.baselines import (
    NO_METHOD,
    is_baseline,
    method_of,
    noise_levels,
    published_points,
)
from dhp_sr.reports.run import (
    Row,
    Run,
    TrainingPoint,
    ValidationPoint,
    phase_spans,
    score_keys,
    set_names,
)
from dhp_sr.reports.scores import scores_of
from dhp_sr.utils.cost_kinds import ALWAYS_REPORTED
from dhp_sr.utils.strict_json import JsonObject

MAX_LINE_POINTS = 400
"""Points of a line; a chart is not wide enough to show more."""


class Line(TypedDict):
    """A line of a chart."""

    label: str
    style: int
    """Index of color and dashes."""
    points: list[list[float]]
    """Iteration and value of each."""


class Chart(TypedDict):
    """Lines over the iterations; `log` and `fraction` are kinds of the vertical axis."""

    title: str
    lines: list[Line]
    log: bool
    fraction: bool


class TrainingCharts(TypedDict):
    """Curves of a run, or of several."""

    phases: list[JsonObject]
    """Name, start and end of each."""
    charts: list[Chart]


def scatter_chart(runs: Sequence[Run], baselines: Sequence[Run] = ()) -> JsonObject | None:
    """Collect the data of score against cost; None if no run has scores and costs.

    Args:
        runs: Runs that the page is about.
        baselines: Runs to show beside them.

    Returns:
        JSON object of `points` (networks), `inputs` (scores without a network), and the `sets`,
        `scores` and `costs` to choose from.
    """
    finished = [run for run in runs if run.metrics]
    rows: list[Row] = []
    points = []
    for run in finished:
        rows += run.rows
        points += network_points(run, several=len(runs) > 1)
    if not points:
        return None
    # The first run determines what is compared; a page is about runs of the same task.
    first = finished[0]
    sets = set_names(rows)
    scores = scores_of(first.task, score_keys(rows))
    if not scores:
        return None
    for baseline in baselines:
        for point in network_points(baseline, several=True):
            # Its dense network, if it has been trained to the end, is for comparison too.
            points.append({**point, "kind": "baseline"})
    levels = noise_levels(first.options)
    levels_of_sets = {name: levels.get(name) for name in sets}
    points += published_points(first.task, first.results.get("scale"), levels_of_sets)
    inputs = []
    for row in first.rows:
        # Interpolated or noisy images are scored too: rows without a network have no costs.
        if row.get("macs") is None:
            inputs.append({"label": row["model"], "sets": row["sets"]})
    # A set on which only the inputs were scored would give an empty chart.
    drawn_sets = set_names(points)
    score_axes = []
    for score in scores:
        axis = {"key": score.key, "label": score.label, "digits": score.digits}
        score_axes.append(axis)
    cost_axes = []
    for column in cost_columns(rows):
        axis = {"key": column.key, "label": column.axis_label, "digits": column.digits}
        cost_axes.append({**axis, "unit": column.kind.divisor})
    return {
        "points": points,
        "inputs": inputs,
        "sets": [name for name in sets if name in drawn_sets],
        "scores": score_axes,
        "costs": cost_axes,
    }


def training_charts(run: Run) -> TrainingCharts | None:
    """Collect the data of a run's curves; None if it has no rows yet."""
    if not (run.curves or run.validation):
        return None
    charts = [
        _chart("training loss", [_line("loss", run.curves, "loss")], log=True),
        _chart("kept, masks applied", kept_cost_lines(run.curves), fraction=True),
        *validation_charts(run),
    ]
    phases = []
    for name, start, end in phase_spans([*run.curves, *run.validation]):
        phases.append({"name": name, "start": start, "end": end})
    return {"phases": phases, "charts": [chart for chart in charts if chart["lines"]]}


def compared_training_charts(runs: Sequence[Run]) -> TrainingCharts | None:
    """Collect the curves of several runs, a line for each; None if none has rows yet.

    There is a chart for the loss, for the kept multiply-adds and for each test set.
    Phases are left out, because they differ from run to run.
    """
    merged: dict[str, Chart] = {}
    for run_index, run in enumerate(runs):
        data = training_charts(run)
        if data is None:
            continue
        for chart in data["charts"]:
            lines = chart["lines"]
            if chart["fraction"]:
                # Of the kinds of cost the first is enough to tell the runs apart.
                lines = lines[:1]
            for line in lines:
                title = chart["title"]
                if len(lines) > 1:
                    title = f"{title}, {line['label']}"
                target = merged.setdefault(title, {**chart, "title": title, "lines": []})
                target["lines"].append({**line, "label": run.name, "style": run_index})
                # The axis is logarithmic only if it can be for the lines of all runs.
                target["log"] = target["log"] and chart["log"]
    if not merged:
        return None
    return {"phases": [], "charts": list(merged.values())}


def network_points(run: Run, several: bool) -> list[JsonObject]:
    """Convert each network of a run into a point; `several` puts the run's name before it."""
    method = method_of(run.options)
    points = []
    for row in run.rows:
        if row.get("macs") is None:
            continue
        is_dense = row["model"] == "dense"
        # The dense network of a baseline is that of another run, which is shown already.
        if is_dense and is_baseline(method) and several:
            continue
        label = f"{run.name}: {row['model']}" if several else str(row["model"])
        kind = "pruned"
        detail = f"cut by {method}"
        if is_dense:
            kind = "dense"
            detail = "dense, as it was when the search began"
            if method == NO_METHOD:
                detail = "dense, trained to the end"
        elif is_baseline(method):
            kind = "baseline"
        point = {
            "kind": kind,
            "run": run.name,
            "label": label,
            "detail": detail,
            "iterations": row.get("iterations"),
            "sets": row["sets"],
        }
        for column in cost_columns(run.rows):
            point[column.key] = row.get(column.key)
        points.append(point)
    return points


def _chart(
    title: str,
    lines: Sequence[Line],
    *,
    log: bool = False,
    fraction: bool = False,
) -> Chart:
    shown: list[Line] = []
    for line in lines:
        if line["points"]:
            shown.append({**line, "style": len(shown)})
    for line in shown:
        for _, value in line["points"]:
            # A logarithmic axis cannot show zero and below.
            log = log and value > 0
    return {
        "title": title,
        "lines": shown,
        "log": log,
        "fraction": fraction,
    }


def kept_cost_lines(points: Sequence[TrainingPoint]) -> list[Line]:
    """Kept fraction of each kind of cost; nothing for a run that keeps all."""
    lines = []
    anything_pruned = False
    for kind in ALWAYS_REPORTED:
        line = _line(kind.label, points, kind.ratio_key)
        lines.append(line)
        for _, value in line["points"]:
            anything_pruned = anything_pruned or value != 1
    return lines if anything_pruned else []


def validation_charts(run: Run) -> list[Chart]:
    """Chart of the main score, a line for each test set; empty without a score."""
    available = set()
    for field in fields(ValidationPoint):
        for point in run.validation:
            if isinstance(getattr(point, field.name), float):
                available.add(field.name)
    scores = scores_of(run.task, available)
    if not scores:
        return []
    points_by_set: dict[str, list[ValidationPoint]] = {}
    for point in run.validation:
        points_by_set.setdefault(point.set, []).append(point)
    main_score = scores[0]
    lines = []
    for name, points in points_by_set.items():
        lines.append(_line(name, points, main_score.key))
    return [_chart(f"validation {main_score.label}", lines)]


def _line(label: str, points: Sequence[TrainingPoint | ValidationPoint], name: str) -> Line:
    """Line of an attribute of the points, thinned to `MAX_LINE_POINTS`."""
    values = []
    for point in points:
        value = getattr(point, name)
        # A diverged training writes nan and inf, which neither JSON nor a chart can hold.
        if value is not None and math.isfinite(value):
            values.append([point.iteration, value])
    step = max(1, math.ceil(len(values) / MAX_LINE_POINTS))
    # Counted from the end, so that the last value, which is the result, is among the points.
    thinned = values[::-1][::step][::-1]
    return {"label": label, "style": 0, "points": thinned}
