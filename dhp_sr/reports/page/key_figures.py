"""What a reader wants to know of a run first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dhp_sr.reports.page.baselines import method_of
from dhp_sr.reports.page.formatting import TIMES, gain, number, percent, score_keys
from dhp_sr.reports.run import Run, TrainingPoint, ValidationPoint
from dhp_sr.reports.scores import scores_of


@dataclass(frozen=True)
class Fact:
    """A figure and what it is."""

    label: str
    """What it is."""
    value: str
    """The figure."""
    note: str = ""
    """What it compares with."""


def subtitle(run: Run) -> str:
    """Return network, task and method in one line."""
    network = run.options.get("network_g")
    inner = (
        network.get("network")
        if isinstance(network, Mapping) and network.get("type") == "Hyper"
        else network
    )
    kind = str(inner.get("type", "")).removeprefix("Hyper") if isinstance(inner, Mapping) else ""
    task = {"sr": "super-resolution", "denoise": "denoising"}.get(run.task or "", run.task or "")
    if run.task == "sr":
        task += f" {TIMES}{run.results.get('scale', run.options.get('scale'))}"
    method = method_of(run.options) if run.options else ""
    method = {"none": "not cut", "": ""}.get(method, f"cut by {method}")
    return ", ".join(part for part in (kind, task, method) if part)


def state(run: Run) -> str:
    """Return how far an unfinished run has come; empty for a finished one."""
    if run.metrics:
        return ""
    points: list[TrainingPoint | ValidationPoint] = [*run.curves, *run.validation]
    last = max(points, key=lambda point: point.iteration, default=None)
    if last is None:
        return "Not finished: no iteration is recorded yet."
    total = (
        run.options.get("train", {}).get("total_iter")
        if isinstance(run.options.get("train"), Mapping)
        else None
    )
    of = f" of {total:,}" if isinstance(total, int) else ""
    return f"Not finished: recorded up to iteration {last.iteration:,}{of}, phase {last.phase}."


def facts(run: Run) -> list[Fact]:
    """Return the figures of the first cut model against the dense network; of the dense one where nothing was cut."""
    rows = {row["model"]: row for row in run.results.get("rows", [])}
    model = next((name for name in rows if name in run.cuts or name.startswith("pruned")), None)
    if model is None:
        return _plain(rows["dense"], run) if "dense" in rows else []
    own, dense = rows[model], rows.get("dense", {})
    found = [
        _cost("multiply-adds", "macs", own, dense, 1e9, " G", run),
        _cost("parameters", "params", own, dense, 1e6, " M", run),
    ]
    if own.get("latency_ms"):
        found.append(_latency(own, dense))
    return [fact for fact in [*found, _score(own, dense, rows, run)] if fact]


def _plain(row: Mapping[str, Any], run: Run) -> list[Fact]:
    found = [
        Fact("multiply-adds", number(row.get("macs"), 3, 1e9) + " G", _size(run)),
        Fact("parameters", number(row.get("params"), 3, 1e6) + " M"),
        Fact("latency", number(row.get("latency_ms"), 1) + " ms"),
    ]
    score = _score(row, {}, {}, run)
    return [*found, *([score] if score else [])]


def _cost(
    label: str,
    key: str,
    own: Mapping[str, Any],
    dense: Mapping[str, Any],
    unit: float,
    sign: str,
    run: Run,
) -> Fact:
    """Take the kept fraction from the cut's report where the table has no dense network."""
    value = f"{number(own.get(key), 3, unit)}{sign}"
    if dense.get(key):
        return Fact(
            label,
            percent(own.get(key), dense[key]),
            f"{value} of {number(dense[key], 3, unit)}{sign}",
        )
    achieved = run.results.get("achieved")
    ratio = achieved.get(f"{key}_ratio") if isinstance(achieved, Mapping) else None
    return Fact(label, f"{ratio:.1%}" if ratio else value, value if ratio else "")


def _latency(own: Mapping[str, Any], dense: Mapping[str, Any]) -> Fact:
    time = f"{number(own['latency_ms'], 1)} ms"
    if not dense.get("latency_ms"):
        return Fact("latency", time)
    return Fact(
        "latency",
        f"{dense['latency_ms'] / own['latency_ms']:.2f}{TIMES} faster",
        f"{time}, dense {number(dense['latency_ms'], 1)} ms",
    )


def _score(
    own: Mapping[str, Any], dense: Mapping[str, Any], rows: Mapping[str, Any], run: Run
) -> Fact | None:
    """Return the first test set's score, and its distance to the dense network, else to the input."""
    scores = scores_of(run.task, score_keys(run.results))
    if not own["sets"] or not scores:
        return None
    name, found = next(iter(own["sets"].items()))
    score = scores[0]
    label, value = f"{score.name} on {name}", found.get(score.key)
    if value is None:
        return None
    shown = f"{number(value, score.digits)} {score.unit}"
    references = [
        ("dense", dense),
        *((other, row) for other, row in rows.items() if row.get("macs") is None),
    ]
    for other, row in references:
        reference = row.get("sets", {}).get(name, {}).get(score.key)
        if reference is not None:
            what = "the dense network before the search" if other == "dense" else other
            return Fact(label, shown, f"{gain(value, reference, score.digits)} against {what}")
    return Fact(label, shown)


def _size(run: Run) -> str:
    size = run.results.get("macs_input")
    return f"for an input of {f' {TIMES} '.join(str(side) for side in size[1:])}" if size else ""
