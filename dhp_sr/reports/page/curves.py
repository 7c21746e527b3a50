"""The curves of training and validation, thinned to what a chart can show; the values are those of the files."""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from dhp_sr.reports.phases import phase_spans
from dhp_sr.reports.run import Run, TrainingPoint, ValidationPoint
from dhp_sr.reports.scores import scores_of

MOST = 400
"""Points of one line."""

Line = dict[str, Any]


def curves(run: Run) -> dict[str, Any] | None:
    """Return the charts of a run, JSON-able; None where it has no rows yet.

    Returns:
        `phases` (name, start, end) and `charts`: title, whether the axis is logarithmic or a fraction, and lines of
        points (iteration, value).
    """
    if not (run.curves or run.validation):
        return None
    charts = [
        _chart("training loss", [_line("loss", run.curves, "loss")], log=True),
        _chart("kept, masks applied", _kept(run.curves), fraction=True),
        *_validation(run),
    ]
    spans = phase_spans([*run.curves, *run.validation])
    phases = [{"name": name, "start": start, "end": end} for name, start, end in spans]
    return {"phases": phases, "charts": [chart for chart in charts if chart["lines"]]}


def _chart(
    title: str, lines: Sequence[Line], log: bool = False, fraction: bool = False, digits: int = 4
) -> dict:
    kept = [line for line in lines if line["points"]]
    kept = [{**line, "style": place} for place, line in enumerate(kept)]
    positive = all(value > 0 for line in kept for _, value in line["points"])
    return {
        "title": title,
        "lines": kept,
        "log": log and positive,
        "fraction": fraction,
        "digits": digits,
    }


def _kept(points: Sequence[TrainingPoint]) -> list[Line]:
    """Return the kept fractions; nothing for a run in which all is kept."""
    lines = [_line("MACs", points, "macs_ratio"), _line("parameters", points, "params_ratio")]
    return lines if any(value != 1 for line in lines for _, value in line["points"]) else []


def _validation(run: Run) -> list[dict]:
    """Return one chart for the score that counts, a line for each test set."""
    names = [field.name for field in fields(ValidationPoint)]
    found = [
        name
        for name in names
        if any(isinstance(getattr(point, name), float) for point in run.validation)
    ]
    scores = scores_of(run.task, found)
    if not scores:
        return []
    sets = dict.fromkeys(point.set for point in run.validation)
    lines = [_line(one, [p for p in run.validation if p.set == one], scores[0].key) for one in sets]
    return [_chart(f"validation {scores[0].label}", lines, digits=scores[0].digits)]


def _line(label: str, points: Sequence[TrainingPoint | ValidationPoint], name: str) -> Line:
    values = [(point.iteration, getattr(point, name)) for point in points]
    values = [
        (iteration, value)
        for iteration, value in values
        if value is not None and math.isfinite(value)
    ]
    step = math.ceil(len(values) / MOST) or 1
    kept = values[::-1][::step][::-1]  # from the end, so that the last value is among them
    return {"label": label, "style": 0, "points": [list(pair) for pair in kept]}


def compared(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return the charts of several runs, a line for each: loss, kept multiply-adds, and the score of each test set.

    Phases are left out, for they differ from run to run.
    """
    merged: dict[str, dict] = {}
    for place, run in enumerate(runs):
        for chart in (curves(run) or {"charts": []})["charts"]:
            lines = chart["lines"][:1] if chart["fraction"] else chart["lines"]
            for line in lines:
                title = f"{chart['title']}, {line['label']}" if len(lines) > 1 else chart["title"]
                whole = merged.setdefault(title, {**chart, "title": title, "lines": []})
                whole["lines"].append({**line, "label": run.name, "style": place})
                whole["log"] = whole["log"] and chart["log"]
    return {"phases": [], "charts": list(merged.values())} if merged else None
