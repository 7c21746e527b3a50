"""Tables and a picture of the methods side by side, and of what a search listens to."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dhp_sr.reports.canvas import INK, LINES, new_figure, save_png, tidy
from dhp_sr.reports.scores import MISSING
from dhp_sr.reports.tables import markdown

Row = Mapping[str, Any]


def controls_table(rows: Sequence[Row]) -> str:
    """Return the methods of every case, in markdown: means over the seeds, and the standard deviation over them.

    "step" is the time of a training step of the cut network, in steps of the dense one.

    Args:
        rows: those of `results/controls.json`.
    """
    header = [
        "case",
        "method",
        "seeds",
        "MACs kept",
        "step",
        "PSNR-Y of each test set",
        "mean, dB",
        "spread",
    ]
    return markdown([header, *(_controls_cells(chosen) for chosen in _entries(rows))])


def listening_table(rows: Sequence[Row]) -> str:
    """Return what the kept channels depend on, one line for each preset, in markdown.

    Args:
        rows: those of `results/listening.json`.
    """
    header = ["preset", "rank correlation of first and last latents"]
    header += ["overlap, other latents", "other seed", "other data", "by chance"]
    return markdown([header, *(_listening_cells(row) for row in rows)])


def plot_controls(path: str | Path, rows: Sequence[Row]) -> None:
    """Draw the score of every training, one panel for each case, a bar at each method's mean.

    Args:
        path: the PNG file.
        rows: those of `results/controls.json`.
    """
    cases = list(dict.fromkeys(_case(row) for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = new_figure(7.2, 0.6 + 1.7 * len(cases))
    panels = figure.subplots(len(cases), squeeze=False)[:, 0]
    for axes, case in zip(panels, cases, strict=True):
        entries = [entry for entry in _entries(rows) if _case(entry[0]) == case]
        for place, entry in enumerate(entries):
            values, colour = _scores(entry), LINES[methods.index(entry[0]["method"]) % len(LINES)]
            axes.plot(values, [place] * len(values), "o", color=colour, markersize=6, alpha=0.7)
            axes.plot(
                [statistics.mean(values)] * 2, [place - 0.3, place + 0.3], color=INK, linewidth=1.5
            )
        axes.set_yticks(range(len(entries)), [entry[0]["method"] for entry in entries])
        axes.set_ylim(len(entries) - 0.5, -0.5)
        axes.set_title(_title(case), loc="left", fontsize=9, color=INK)
        tidy(axes, grid="x")
        axes.tick_params(axis="y", length=0)
    panels[-1].set_xlabel("mean PSNR-Y, dB; a dot for each seed", fontsize=9, color=INK)
    save_png(figure, path)


def _entries(rows: Sequence[Row]) -> list[list[Row]]:
    """Gather the seeds of each case and method, the best method of a case first."""
    found: dict[tuple, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(_case(row), {}).setdefault(row["method"], []).append(row)
    return [
        entry
        for methods in found.values()
        for entry in sorted(methods.values(), key=lambda entry: -statistics.mean(_scores(entry)))
    ]


def _case(row: Row) -> tuple[str, float]:
    return row["case"], row["length"]


def _title(case: tuple[str, float]) -> str:
    name, length = case
    return name if length == 1 else f"{name}, {length:g} x the time"


def _scores(entry: Sequence[Row]) -> list[float]:
    return [row["mean_psnr_y_db"] for row in entry]


def _controls_cells(entry: Sequence[Row]) -> list[str]:
    scores = _scores(entry)
    sets = entry[0]["psnr_y_db"]
    means = [
        f"{name} {statistics.mean(row['psnr_y_db'][name] for row in entry):.2f}" for name in sets
    ]
    return [
        _title(_case(entry[0])),
        entry[0]["method"],
        ", ".join(str(seed) for seed in sorted(row["seed"] for row in entry)),
        f"{statistics.mean(row['macs_ratio'] for row in entry):.1%}",
        f"{statistics.mean(row['step_ratio'] for row in entry):.2f}",
        ", ".join(means),
        f"{statistics.mean(scores):.3f}",
        f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else MISSING,
    ]


def _listening_cells(row: Row) -> list[str]:
    overlaps = [f"overlap_other_{what}" for what in ("latents", "seed", "data")]
    spans = [_span(row[key]) for key in ("rank_correlation", *overlaps)]
    return [row["preset"], *spans, f"{row['overlap_by_chance']:.2f}"]


def _span(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"
