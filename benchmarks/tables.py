"""Markdown tables and plots of the benchmark results, for the README and the documentation."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dhp_sr.reports.formatting import MISSING, markdown
from dhp_sr.reports.plots import INK, LINE_COLORS, MUTED, new_figure, save_png, style_axes

Row = Mapping[str, Any]
"""One measurement, as it is stored in `results/*.json`."""

DENSE = "dense"
MIB = 2**20


def step_table(rows: Sequence[Row]) -> str:
    """Markdown table of the cost of a training step with latents, relative to the plain network.

    Time is processor time with one CPU thread, else wall time, with the quartiles of the ratio.
    The state is parameters, buffers, gradients, optimizer and search state; the last column adds
    the tensors that the forward pass saves for the backward pass.

    Args:
        rows: those of `results/engine.json`.
    """
    header = ["network", "weights", "batch", "time of a step", "params", "state MiB", "state"]
    return markdown([[*header, "with activations"], *(_step_cells(row) for row in rows)])


def _step_cells(row: Row) -> list[str]:
    plain = row["plain"]
    hyper = row["hyper"]
    # Wall time of one thread also counts what other programs took from its core.
    single_thread = row["device"] == "cpu" and row["threads"] == 1
    ratio = row["cpu_ratio" if single_thread else "wall_ratio"]
    hyper_bytes = hyper["state_bytes"] + hyper["saved_bytes"]
    plain_bytes = plain["state_bytes"] + plain["saved_bytes"]
    batch = str(row["input"][0])
    if row["input"][0] != row["paper_batch"]:
        batch = f"{batch} of {row['paper_batch']}"
    return [
        row["network"],
        row["parametrization"],
        batch,
        f"{ratio['median']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})",
        f"{hyper['params'] / plain['params']:.3f}",
        f"{plain['state_bytes'] / MIB:.1f} -> {hyper['state_bytes'] / MIB:.1f}",
        f"{hyper['state_bytes'] / plain['state_bytes']:.3f}",
        f"{hyper_bytes / plain_bytes:.3f}",
    ]


def latency_table(rows: Sequence[Row]) -> str:
    """Markdown table of the speed-up of pruned networks, a column per runtime and thread count.

    With one thread it is processor time, with more threads wall time; a speed-up is the median of
    the ratios within a round.

    Args:
        rows: those of `results/latency.json`.
    """
    settings = list(dict.fromkeys((row["runtime"], row["threads"]) for row in rows))
    by_network: dict[tuple[str, str, str], dict[tuple[str, int], Row]] = {}
    for row in rows:
        network = (row["network"], row["widths"], str(row["input"]))
        by_network.setdefault(network, {})[row["runtime"], row["threads"]] = row

    header = ["network", "widths", "input", "MACs kept"]
    table = [header + [_setting(*setting) for setting in settings]]
    for (name, widths, _), measured in by_network.items():
        first = next(iter(measured.values()))
        size = "x".join(str(length) for length in first["input"][1:])
        cells = [_latency_cell(measured.get(setting)) for setting in settings]
        table.append([name, widths, size, f"{first['macs_ratio']:.1%}", *cells])
    return markdown(table)


_COVERAGE = {
    "exact": "to half, exactly",
    "to less": "exactly, not to half",
    "one size": "at some sizes only",
    "refused": "no",
    "WRONG": "wrong",
    "miscounted": "miscounted",
    "error": "not measured",
    "no time": "not measured in time",
}
"""Result of a network in `results/coverage.json` -> what the table says."""


def coverage_table(rows: Sequence[Row]) -> str:
    """Markdown tables of the networks of other packages: how many are cut exactly, and each.

    Args:
        rows: those of `results/coverage.json`.
    """
    results: dict[str, list[str]] = {}
    table = [["library", "network", "cut", "multiply-adds kept", "why"]]
    for row in rows:
        results.setdefault(row["library"], []).append(row["result"])
        kept = MISSING
        if "keep_ratio" in row:
            kept = f"{row['keep_ratio']:.3f}"
        # A pipe would end the cell, and the reason may be long.
        reason = " ".join(str(row.get("reason", "")).split()).replace("|", "/")[:200]
        result = _COVERAGE.get(row["result"], row["result"])
        table.append([row["library"], row["network"], result, kept, reason])
    summary = [["library", "networks", *_COVERAGE.values()]]
    for library, found in results.items():
        counts = [str(found.count(result)) for result in _COVERAGE]
        summary.append([library, str(len(found)), *counts])
    return f"{markdown(summary)}\n{markdown(table)}"


def _setting(runtime: str, threads: int) -> str:
    plural = "s" * (threads > 1)
    return f"{runtime}, {threads} thread{plural}"


def _speedup(row: Row) -> Mapping[str, float]:
    key = "cpu_speedup" if row["threads"] == 1 else "speedup"
    return row[key]


def _latency_cell(row: Row | None) -> str:
    if row is None:
        return MISSING
    if row["widths"] == DENSE:
        time_ms = row["cpu_ms" if row["threads"] == 1 else "wall_ms"]
        return f"{time_ms['median']:.0f} ms"
    return f"{_speedup(row)['median']:.2f}x"


def plot_speedups(
    path: str | Path, rows: Sequence[Row], runtime: str = "onnxruntime", threads: int = 1
) -> None:
    """Draw a bar chart of speed-ups beside the reduction of multiply-adds.

    Args:
        path: PNG file to write.
        rows: those of `results/latency.json`.
        runtime: runtime to draw.
        threads: thread count to draw.
    """
    chosen = []
    for row in rows:
        same_setting = (row["runtime"], row["threads"]) == (runtime, threads)
        if same_setting and row["widths"] != DENSE:
            chosen.append(row)
    networks = list(dict.fromkeys(row["network"] for row in chosen))

    figure = new_figure(7.2, 0.9 + 0.21 * max(len(chosen), 1))
    axes = figure.add_subplot()
    for y, row in enumerate(chosen):
        speedup = _speedup(row)
        color = LINE_COLORS[networks.index(row["network"]) % len(LINE_COLORS)]
        axes.barh(y, speedup["median"], height=0.7, color=color)
        axes.plot([speedup["low"], speedup["high"]], [y, y], color=INK, linewidth=1.2)
        # Where the bar would end if time were proportional to multiply-adds.
        axes.plot(1 / row["macs_ratio"], y, "|", color=MUTED, markersize=11, markeredgewidth=2)
    axes.set_yticks(range(len(chosen)), [f"{row['network']}, {row['widths']}" for row in chosen])
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.set_xlabel("speed-up; gray: dense MACs / kept MACs", fontsize=9, color=INK)
    style_axes(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    title = f"Cut networks against dense ones, {_setting(runtime, threads)}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    save_png(figure, path)


def method_comparison_table(rows: Sequence[Row]) -> str:
    """Markdown table of the search methods per case, the best one first.

    Scores are means over the seeds with their standard deviation; "step" is the time of a training
    step of the pruned network relative to the dense network.

    Args:
        rows: those of `results/method_comparison.json`.
    """
    header = ["case", "method", "seeds", "MACs kept", "step", "PSNR-Y of each test set"]
    table = [[*header, "mean, dB", "spread"]]
    for case, methods in _by_case(rows).items():
        for runs in methods:
            table.append(_method_cells(case, runs))
    return markdown(table)


def _by_case(rows: Sequence[Row]) -> dict[str, list[list[Row]]]:
    """Group runs by case, then by method; methods are sorted by their mean score."""
    grouped: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        case = row["case"]
        if row["length"] != 1:
            case = f"{case}, {row['length']:g} x the time"
        grouped.setdefault(case, {}).setdefault(row["method"], []).append(row)
    return {
        case: sorted(methods.values(), key=lambda runs: -statistics.mean(_scores(runs)))
        for case, methods in grouped.items()
    }


def _scores(runs: Sequence[Row]) -> list[float]:
    return [row["mean_psnr_y_db"] for row in runs]


def _method_cells(case: str, runs: Sequence[Row]) -> list[str]:
    scores = _scores(runs)
    set_means = []
    for name in runs[0]["psnr_y_db"]:
        mean = statistics.mean(row["psnr_y_db"][name] for row in runs)
        set_means.append(f"{name} {mean:.2f}")
    return [
        case,
        runs[0]["method"],
        ", ".join(str(seed) for seed in sorted(row["seed"] for row in runs)),
        f"{statistics.mean(row['macs_ratio'] for row in runs):.1%}",
        f"{statistics.mean(row['step_ratio'] for row in runs):.2f}",
        ", ".join(set_means),
        f"{statistics.mean(scores):.3f}",
        f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else MISSING,
    ]


def plot_method_comparison(path: str | Path, rows: Sequence[Row]) -> None:
    """Draw the score of every run, a panel per case, with a bar at the mean of each method.

    Cases with a single method are left out: there is nothing to compare.

    Args:
        path: PNG file to write.
        rows: those of `results/method_comparison.json`.
    """
    cases = {case: entries for case, entries in _by_case(rows).items() if len(entries) > 1}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = new_figure(7.2, 0.6 + 1.7 * len(cases))
    panels = figure.subplots(len(cases), squeeze=False)[:, 0]
    for axes, (case, entries) in zip(panels, cases.items(), strict=True):
        for y, runs in enumerate(entries):
            scores = _scores(runs)
            color = LINE_COLORS[methods.index(runs[0]["method"]) % len(LINE_COLORS)]
            axes.plot(scores, [y] * len(scores), "o", color=color, markersize=6, alpha=0.7)
            axes.plot([statistics.mean(scores)] * 2, [y - 0.3, y + 0.3], color=INK, linewidth=1.5)
        axes.set_yticks(range(len(entries)), [runs[0]["method"] for runs in entries])
        axes.set_ylim(len(entries) - 0.5, -0.5)
        axes.set_title(case, loc="left", fontsize=9, color=INK)
        style_axes(axes, grid="x")
        axes.tick_params(axis="y", length=0)
    panels[-1].set_xlabel("mean PSNR-Y, dB; a dot for each seed", fontsize=9, color=INK)
    save_png(figure, path)


def stability_table(rows: Sequence[Row]) -> str:
    """Markdown table of how much the kept channels depend on latents, seed and data.

    Args:
        rows: those of `results/stability_analysis.json`.
    """
    header = ["preset", "rank correlation of first and last latents", "overlap, other latents"]
    table = [[*header, "other seed", "other data", "by chance"]]
    keys = ("rank_correlation", "overlap_other_latents", "overlap_other_seed", "overlap_other_data")
    for row in rows:
        spans = [_span(row[key]) for key in keys]
        table.append([row["preset"], *spans, f"{row['overlap_by_chance']:.2f}"])
    return markdown(table)


MODEL_NAMES = {
    "dense": "dense, as published",
    "uniform": "cut uniformly, corrected",
    "obs": "cut by dhp_sr",
}


def headline_table(rows: Sequence[Row]) -> str:
    """Markdown table of a dense network, a uniform cut and a searched one: score, MACs, time.

    Args:
        rows: those of `results/headline.json`; times are processor time of one thread.
    """
    runtimes = list(rows[0]["cpu_ms"]) if rows else []
    test_set = rows[0]["test_set"] if rows else ""
    header = ["network", f"{test_set} PSNR, dB", "MACs G", *(f"{name}, ms" for name in runtimes)]
    table = [header]
    for row in rows:
        times = []
        for name in runtimes:
            speedup = f" ({row['speedup'][name]:.2f}x)" if row["model"] != DENSE else ""
            times.append(f"{row['cpu_ms'][name]:.0f}{speedup}")
        macs = f"{row['macs'] / 1e9:.2f}"
        table.append([MODEL_NAMES[row["model"]], f"{row['psnr_db']:.2f}", macs, *times])
    return markdown(table)


def _span(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.2f} to {max(values):.2f})"


def cut_without_training_table(rows: Sequence[Row]) -> str:
    """Markdown table of scores right after a corrected cut, and after finetuning where it was done.

    Args:
        rows: those of `results/cut_without_training.json`, all of one network.
    """
    names = list(rows[0]["scores"])
    header = ["method", "MACs kept", "seed", *(f"{name} dB" for name in names), "CPU seconds"]
    is_finetuned = any("steps" in row for row in rows)
    if is_finetuned:
        header += ["steps", *(f"{name} then" for name in names)]
    lines = [header]
    for row in sorted(rows, key=lambda row: (-row["keep_ratio"], -row["scores"][names[0]])):
        scores = [f"{row['scores'][name]:.2f}" for name in names]
        seconds = MISSING
        kept = "100%"
        if row["method"] != DENSE:
            seconds = f"{row['cpu_seconds_search'] + row['cpu_seconds_correction']:.0f}"
            kept = f"{row['kept']:.1%}"
        finetuned = [MISSING] * (1 + len(names)) if is_finetuned else []
        if "steps" in row:
            trained = [f"{row['scores_finetuned'][name]:.2f}" for name in names]
            finetuned = [f"{row['steps']:,}", *trained]
        lines.append([row["method"], kept, str(row["seed"]), *scores, seconds, *finetuned])
    return markdown(lines)


def after_cut_table(rows: Sequence[Row]) -> str:
    """Markdown table of ways to train after a corrected cut, the best one first.

    Args:
        rows: those of `results/after_cut.json`.
    """
    lines = [["network", "MACs kept", "training", "steps", "CPU seconds", "PSNR dB"]]
    for row in sorted(rows, key=lambda row: (row["name"], row["keep_ratio"], -row["psnr_y_db"])):
        # The original, and the network before training.
        is_trained = "cpu_s" in row
        kept = "100%" if row["variant"] == "original" else f"{row['keep_ratio']:.1%}"
        steps = f"{row['steps']:,}" if is_trained else MISSING
        seconds = str(row["cpu_s"]) if is_trained else MISSING
        score = f"{row['psnr_y_db']:.3f}"
        lines.append([row["name"], kept, row["variant"], steps, seconds, score])
    return markdown(lines)
