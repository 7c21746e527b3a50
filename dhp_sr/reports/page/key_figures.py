"""Head of the page: what a run is, how far it came, and its key figures."""

from collections.abc import Mapping
from dataclasses import dataclass

from dhp_sr.reports.formatting import (
    TIMES,
    CostColumn,
    cost_columns,
    kept_percent,
    page_number,
    shape_text,
    signed_difference,
)
from dhp_sr.reports.page.baselines import NO_METHOD, method_of
from dhp_sr.reports.run import Row, Run, TrainingPoint, ValidationPoint, score_keys
from dhp_sr.reports.scores import scores_of
from dhp_sr.utils.strict_json import JsonObject

_TASK_NAMES = {
    "sr": "super-resolution",
    "denoise": "denoising",
    "restoration": "image restoration",
}


@dataclass(frozen=True)
class KeyFigure:
    """Figure with its name."""

    label: str
    """Name of the figure."""
    value: str
    """The figure with its unit."""
    note: str = ""
    """Comparison with another model."""


def subtitle(run: Run) -> str:
    """Describe network, task and method in one line."""
    task = _TASK_NAMES.get(run.task or "", run.task or "")
    if run.task == "sr":
        task += f" {TIMES}{run.results.get('scale', run.options.get('scale'))}"
    method = ""
    if run.options:
        method = method_of(run.options)
        method = "not cut" if method == NO_METHOD else f"cut by {method}"
    return ", ".join(filter(None, (network_name(run.options), task, method)))


def unfinished_note(run: Run) -> str:
    """Describe how far an unfinished run has come; empty for a finished one."""
    if run.metrics:
        return ""
    points: list[TrainingPoint | ValidationPoint] = [*run.curves, *run.validation]
    if not points:
        return "Not finished: no iteration is recorded yet."
    last = max(points, key=lambda point: point.iteration)
    progress = f"iteration {last.iteration:,}"
    train_options = run.options.get("train")
    if isinstance(train_options, Mapping) and isinstance(train_options.get("total_iter"), int):
        progress += f" of {train_options['total_iter']:,}"
    return f"Not finished: recorded up to {progress}, phase {last.phase}."


def input_size(run: Run) -> str:
    """Channels, height and width of the input that costs are stated for; empty if unknown."""
    shape = run.results.get("macs_input") or ()
    return shape_text(shape[1:], f" {TIMES} ")


def key_figures(run: Run) -> list[KeyFigure]:
    """Compare the first pruned model with the dense network; without one, describe the dense."""
    rows = {row["model"]: row for row in run.rows}
    dense = rows.get("dense")
    pruned = first_pruned(run)
    if pruned is None:
        return [] if dense is None else dense_figures(dense, run)
    figures = []
    for column in cost_columns(run.rows):
        if not column.kind.is_measured:
            figures.append(kept_cost(column, pruned, dense or {}, run))
    if pruned.get("latency_ms"):
        figures.append(speedup(pruned["latency_ms"], (dense or {}).get("latency_ms")))
    # The loss of quality is told against the dense network, or else the gain over the input.
    references = {}
    if dense is not None:
        references["the dense network before the search"] = dense
    for name, row in rows.items():
        if row.get("macs") is None:
            references.setdefault(name, row)  # an interpolated or noisy image
    figures += _main_score(pruned, references, run)
    return figures


def first_pruned(run: Run) -> Row | None:
    """Return the row of the first pruned model; None where nothing was pruned."""
    for row in run.rows:
        # Saved results have no widths, so their pruned models are known by their names.
        if row["model"] in run.cut_widths or row["model"].startswith("pruned"):
            return row
    return None


def network_name(options: JsonObject) -> str:
    """Look up the class of the network in the contents of an option file."""
    network = options.get("network_g")
    if isinstance(network, Mapping) and network.get("type") == "Hyper":
        network = network.get("network")  # the network that is wrapped for the search
    if not isinstance(network, Mapping):
        return ""
    # Our networks are registered for the search under their names with this prefix.
    return str(network.get("type", "")).removeprefix("Hyper")


def dense_figures(dense: Row, run: Run) -> list[KeyFigure]:
    """Costs and main score of a dense network, for a run that pruned nothing."""
    figures = []
    for column in cost_columns(run.rows):
        note = ""
        if column.key == "macs" and input_size(run):
            note = f"for an input of {input_size(run)}"
        figures.append(
            KeyFigure(column.kind.label, _with_unit(column, dense.get(column.key)), note)
        )
    return figures + _main_score(dense, {}, run)


def kept_cost(column: CostColumn, pruned: Row, dense: Row, run: Run) -> KeyFigure:
    """Kept fraction of a cost; the cost itself if the fraction is unknown."""
    value, dense_value = pruned.get(column.key), dense.get(column.key)
    text = _with_unit(column, value)
    if dense_value:
        note = f"{text} of {_with_unit(column, dense_value)}"
        return KeyFigure(column.kind.label, kept_percent(value, dense_value), note)
    # The table of a run from untrained weights has no dense network; its cut reports the ratio.
    achieved = run.results.get("achieved")
    if isinstance(achieved, Mapping) and achieved.get(column.kind.ratio_key):
        ratio = achieved[column.kind.ratio_key]
        return KeyFigure(column.kind.label, f"{ratio:.1%}", text)
    return KeyFigure(column.kind.label, text)


def speedup(latency_ms: float, dense_latency_ms: float | None) -> KeyFigure:
    """Speed against the dense network; the latency itself if the dense one is unknown."""
    text = f"{page_number(latency_ms, 1)} ms"
    if not dense_latency_ms:
        return KeyFigure("latency", text)
    if latency_ms <= dense_latency_ms:
        factor = f"{dense_latency_ms / latency_ms:.2f}{TIMES} faster"
    else:
        factor = f"{latency_ms / dense_latency_ms:.2f}{TIMES} slower"
    return KeyFigure("latency", factor, f"{text}, dense {page_number(dense_latency_ms, 1)} ms")


def _main_score(row: Row, references: Mapping[str, Row], run: Run) -> list[KeyFigure]:
    """Main score on the first test set, and its difference to the first reference that has it."""
    scores = scores_of(run.task, score_keys(run.rows))
    if not row["sets"] or not scores:
        return []
    score = scores[0]
    set_name, values = next(iter(row["sets"].items()))
    value = values.get(score.key)
    if value is None:
        return []
    note = ""
    for name, reference in references.items():
        reference_value = reference.get("sets", {}).get(set_name, {}).get(score.key)
        if reference_value is not None:
            difference = signed_difference(value, reference_value, score.digits)
            note = f"{difference} against {name}"
            break
    text = f"{page_number(value, score.digits)} {score.unit}"
    return [KeyFigure(f"{score.name} on {set_name}", text, note)]


def _with_unit(column: CostColumn, value: float | None) -> str:
    return f"{page_number(value, column.digits, column.kind.divisor)} {column.unit}"
