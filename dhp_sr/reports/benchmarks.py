"""Tables and a picture of what `benchmarks/engine.py` measures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dhp_sr.reports.canvas import INK, LINES, MUTED, new_figure, save_png, tidy
from dhp_sr.reports.scores import MISSING
from dhp_sr.reports.tables import markdown

Row = Mapping[str, Any]
DENSE = "dense"
MIB = 2**20


def step_table(rows: Sequence[Row]) -> str:
    """Return what a training step of the hyper network costs, in markdown.

    Time is processor time with one CPU thread, else wall time; its ratio has the quartiles behind it. The state is
    parameters, buffers, gradients, moments and the search's own; the last column adds what forward keeps for backward.

    Args:
        rows: those of `results/engine.json`.
    """
    header = [
        "network",
        "weights",
        "batch",
        "time of a step",
        "params",
        "state MiB",
        "state",
        "with activations",
    ]
    return markdown([header, *(_step_cells(row) for row in rows)])


def latency_table(rows: Sequence[Row]) -> str:
    """Return how much faster cut networks run, in markdown.

    One line for each choice of widths, one column for each runtime and number of threads. With one thread it is
    processor time, with more wall time; a speed-up is the median of the ratios within a round.

    Args:
        rows: those of `results/latency.json`.
    """
    settings = list(dict.fromkeys((row["runtime"], row["threads"]) for row in rows))
    found = {(_line(row), row["runtime"], row["threads"]): row for row in rows}
    header = ["network", "widths", "input", "MACs kept"]
    header += [_setting(*setting) for setting in settings]
    table = [header]
    for line in dict.fromkeys(_line(row) for row in rows):
        one = next(row for row in rows if _line(row) == line)
        cells = [_speed_cell(found.get((line, *setting))) for setting in settings]
        table.append(
            [
                *line[:2],
                "x".join(str(size) for size in one["input"][1:]),
                f"{one['macs_ratio']:.1%}",
                *cells,
            ]
        )
    return markdown(table)


def plot_speedups(
    path: str | Path, rows: Sequence[Row], runtime: str = "onnxruntime", threads: int = 1
) -> None:
    """Draw speed-up over the kept fraction of the multiply-adds, one point for each choice of widths.

    Args:
        path: the PNG file.
        rows: those of `results/latency.json`.
        runtime: which rows to take; and
        threads: likewise.
    """
    chosen = [
        row
        for row in rows
        if (row["runtime"], row["threads"]) == (runtime, threads) and row["widths"] != DENSE
    ]
    networks = list(dict.fromkeys(row["network"] for row in chosen))
    figure = new_figure(7.2, 0.9 + 0.21 * max(len(chosen), 1))
    axes = figure.add_subplot()
    for place, row in enumerate(chosen):
        speedup, low, high = (_speedup(row)[key] for key in ("median", "low", "high"))
        colour = LINES[networks.index(row["network"]) % len(LINES)]
        axes.barh(place, speedup, height=0.7, color=colour)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.2)
        axes.plot(1 / row["macs_ratio"], place, "|", color=MUTED, markersize=11, markeredgewidth=2)
    axes.set_yticks(range(len(chosen)), [f"{row['network']}, {row['widths']}" for row in chosen])
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.set_xlabel("speed-up; grey: dense MACs / kept MACs", fontsize=9, color=INK)
    tidy(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    title = f"Cut networks against dense ones, {_setting(runtime, threads)}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    save_png(figure, path)


def _step_cells(row: Row) -> list[str]:
    plain, hyper = row["plain"], row["hyper"]
    one_thread = row["device"] == "cpu" and row["threads"] == 1
    ratio = row["cpu_ratio" if one_thread else "wall_ratio"]
    whole = [one["state_bytes"] + one["saved_bytes"] for one in (hyper, plain)]
    batch = row["input"][0]
    return [
        row["network"],
        row["parametrization"],
        str(batch) if batch == row["paper_batch"] else f"{batch} of {row['paper_batch']}",
        f"{ratio['median']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})",
        f"{hyper['params'] / plain['params']:.3f}",
        f"{plain['state_bytes'] / MIB:.1f} -> {hyper['state_bytes'] / MIB:.1f}",
        f"{hyper['state_bytes'] / plain['state_bytes']:.3f}",
        f"{whole[0] / whole[1]:.3f}",
    ]


def _setting(runtime: str, threads: int) -> str:
    return f"{runtime}, {threads} thread{'s' * (threads > 1)}"


def _line(row: Row) -> tuple[str, str, str]:
    return row["network"], row["widths"], str(row["input"])


def _speedup(row: Row) -> Mapping[str, float]:
    return row["cpu_speedup"] if row["threads"] == 1 else row["speedup"]


def _speed_cell(row: Row | None) -> str:
    if row is None:
        return MISSING
    time_ms = row["cpu_ms"] if row["threads"] == 1 else row["wall_ms"]
    if row["widths"] == DENSE:
        return f"{time_ms['median']:.0f} ms"
    return f"{_speedup(row)['median']:.2f}x"
