"""Pictures of a run: widths before and after the cut, and the curves of training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from dhp_sr.reports.canvas import AFTER, BEFORE, INK, LINES, MUTED, new_figure, save_png, tidy
from dhp_sr.reports.phases import phase_spans
from dhp_sr.reports.run import TrainingPoint, ValidationPoint
from dhp_sr.reports.scores import Score, scores_of
from dhp_sr.utils.cost_kinds import ALWAYS_REPORTED

_PHASE_SHADES = {"dense": "#f5f7fa", "search": "#fdf1e0", "finetune": "#eaf4ec"}


def plot_widths(path: str | Path, widths: Mapping[str, Any], title: str = "") -> None:
    """Draw one horizontal bar per layer, its output channels before and after the cut.

    Args:
        path: the PNG file.
        widths: the contents of `widths.json`.
        title: over the picture.
    """
    layers = widths["layers"]
    figure = new_figure(7.2, 1.1 + 0.24 * max(len(layers), 1))
    axes = figure.add_subplot()
    rows = range(len(layers))
    before, after = ([layer[when][0] for layer in layers] for when in ("before", "after"))
    axes.barh(rows, before, height=0.72, color=BEFORE, label="before")
    axes.barh(rows, after, height=0.72, color=AFTER, label="after")
    for row, old, new in zip(rows, before, after, strict=True):
        label = f"{new}" if new == old else f"{new} of {old}"
        axes.annotate(
            label, (old, row), (4, 0), textcoords="offset points", va="center_baseline", fontsize=7.5, color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    axes.set_yticks(rows, [layer["name"] for layer in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, max(before, default=1) * 1.14)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("output channels", fontsize=9, color=INK)
    tidy(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper right",
        ncols=2,
        frameon=False,
        fontsize=8.5,
    )
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    save_png(figure, path)


def plot_curves(
    path: str | Path,
    curves: Sequence[TrainingPoint],
    validation: Sequence[ValidationPoint] = (),
    title: str = "",
    task: str | None = None,
) -> None:
    """Draw loss, kept cost and the score that counts over the iterations, the phases shaded; empty panels are left out.

    Args:
        path: the PNG file.
        curves: `Run.curves`.
        validation: `Run.validation`.
        title: over the picture.
        task: `Run.task`, which says what counts.
    """
    panels: list[Callable[[Axes], None]] = []
    if any(point.loss is not None for point in curves):
        panels.append(lambda axes: _draw_loss(axes, curves))
    if any(point.macs_ratio is not None for point in curves):
        panels.append(lambda axes: _draw_cost(axes, curves))
    score = scores_of(task)[0]
    if any(getattr(point, score.key) is not None for point in validation):
        panels.append(lambda axes: _draw_score(axes, validation, score))
    figure = new_figure(7.2, 0.8 + 1.9 * max(len(panels), 1))
    all_axes = figure.subplots(max(len(panels), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axes, draw in zip(all_axes, panels, strict=False):
        draw(axes)
        tidy(axes)
        _shade_phases(axes, [*curves, *validation], named=axes is all_axes[0])
    if not panels:
        all_axes[0].text(0.5, 0.5, "no values yet", ha="center", va="center", color=MUTED)
    all_axes[-1].set_xlabel("iteration", fontsize=9, color=INK)
    all_axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    save_png(figure, path)


def _draw_loss(axes: Axes, curves: Sequence[TrainingPoint]) -> None:
    points = [(point.iteration, point.loss) for point in curves if point.loss is not None]
    iterations, loss = np.array(points, dtype=float).T
    axes.plot(iterations, loss, color=LINES[0], linewidth=0.7, alpha=0.35)
    axes.plot(iterations, _smooth(loss), color=LINES[0], linewidth=1.6)
    if loss.min() > 0 and np.percentile(loss, 99) / np.percentile(loss, 1) > 5:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(
            FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
        )
        axes.tick_params(axis="y", which="minor", labelsize=8, labelcolor=INK)
    axes.set_ylabel("training loss", fontsize=9, color=INK)


def _draw_cost(axes: Axes, curves: Sequence[TrainingPoint]) -> None:
    styles = (("-", LINES[0]), ("--", LINES[1]))
    for kind, (style, colour) in zip(ALWAYS_REPORTED, styles, strict=False):
        points = [(point.iteration, getattr(point, kind.ratio_key)) for point in curves]
        points = [point for point in points if point[1] is not None]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, style, color=colour, linewidth=1.6, label=kind.label)
    axes.set_ylim(0, 1.08)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("kept", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def _draw_score(axes: Axes, validation: Sequence[ValidationPoint], score: Score) -> None:
    names = list(dict.fromkeys(point.set for point in validation))
    for index, name in enumerate(names):
        points = [(p.iteration, getattr(p, score.key)) for p in validation if p.set == name]
        points = [point for point in points if point[1] is not None]
        if points:
            colour = LINES[index % len(LINES)]
            axes.plot(
                *zip(*points, strict=True),
                "o-",
                color=colour,
                ms=2.5,
                lw=1.4,
                label=name,
                clip_on=False,
            )
    axes.set_ylabel(score.label, fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=8, loc="best", ncols=min(len(names), 4))


def _shade_phases(
    axes: Axes, points: Sequence[TrainingPoint | ValidationPoint], named: bool
) -> None:
    for phase, start, end in phase_spans(points):
        axes.axvspan(start, end, color=_PHASE_SHADES.get(phase, "#f0f0f0"), zorder=-1, linewidth=0)
        if named:
            place = ((start + end) / 2, 1.0)
            axes.annotate(
                phase, place, (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                ha="center", fontsize=8, color=MUTED,
            )  # fmt: skip
    if points:
        axes.set_xlim(0, max(point.iteration for point in points))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over about a fortieth of the values, shorter at both ends."""
    half = len(values) // 80
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
