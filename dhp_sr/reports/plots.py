"""PNG files of a run: widths before and after the cut, and the curves of training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from dhp_sr.reports.fonts import one_warning_for_missing_letters, text_as_written
from dhp_sr.reports.plan import widths_text
from dhp_sr.reports.run import TrainingPoint, ValidationPoint, phase_spans, read_run
from dhp_sr.reports.scores import Score, scores_of
from dhp_sr.utils.cost_kinds import ALWAYS_REPORTED
from dhp_sr.utils.files import atomic_path, write_text
from dhp_sr.utils.strict_json import JsonObject

INK = "#1f2933"
MUTED = "#7b8794"
LINE_COLORS = ("#2b6cb0", "#d9772b", "#2f855a", "#9b3fa3", "#b83232", "#6b7280", "#a18207")
"""Colors of lines, in an order that stays distinct without red-green vision."""

_BEFORE_COLOR = "#d3dbe4"
_AFTER_COLOR = "#2b6cb0"
_PHASE_COLORS = {"dense": "#f5f7fa", "search": "#fdf1e0", "finetune": "#eaf4ec"}
_OTHER_PHASE_COLOR = "#f0f0f0"


def write_reports(folder: str | Path) -> list[Path]:
    """Write widths.txt, plots/widths.png and plots/curves.png, as far as the run has values.

    Args:
        folder: `experiments/<name>`, finished or not.

    Returns:
        The files written.

    Raises:
        UserError: The folder or a file in it cannot be read as a run.
        OSError: A file cannot be written.
    """
    run = read_run(folder)
    # metrics.json, which holds the name, is written last; until then the folder names the run.
    title = str(run.results.get("name", run.folder.name))
    written = []
    if run.widths:
        text_path = run.folder / "widths.txt"
        plot_path = run.folder / "plots" / "widths.png"
        write_text(text_path, widths_text(run.widths))
        plot_widths(plot_path, run.widths, title)
        written += [text_path, plot_path]
    if run.curves or run.validation:
        curves_path = run.folder / "plots" / "curves.png"
        plot_curves(curves_path, run.curves, run.validation, title, run.task)
        written.append(curves_path)
    return written


@text_as_written()
def plot_widths(path: str | Path, widths: JsonObject, title: str = "") -> None:
    """Draw a horizontal bar per layer, its output channels before and after the cut.

    Args:
        path: PNG file to write.
        widths: Contents of widths.json.
        title: Title above the plot.
    """
    layers = widths["layers"]
    figure = new_figure(7.2, 1.1 + 0.24 * max(len(layers), 1))
    axes = figure.add_subplot()
    # The height follows the number of layers, so that names stay readable.
    rows = range(len(layers))
    before = [layer["before"][0] for layer in layers]
    after = [layer["after"][0] for layer in layers]
    axes.barh(rows, before, height=0.72, color=_BEFORE_COLOR, label="before")
    axes.barh(rows, after, height=0.72, color=_AFTER_COLOR, label="after")
    for row, num_before, num_after in zip(rows, before, after, strict=True):
        label = f"{num_after} of {num_before}"
        if num_after == num_before:
            label = f"{num_after}"
        # A white box behind the text keeps it readable across the lines of the grid.
        axes.annotate(
            label,
            (num_before, row),
            (4, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=7.5,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    axes.set_yticks(rows, [layer["name"] for layer in layers])
    # From large to small: the first layer of the network is at the top.
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlim(0, max(before, default=1) * 1.14)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("output channels", fontsize=9, color=INK)
    style_axes(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=8.5)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    save_png(figure, path)


@text_as_written()
def plot_curves(
    path: str | Path,
    curves: Sequence[TrainingPoint],
    validation: Sequence[ValidationPoint] = (),
    title: str = "",
    task: str | None = None,
) -> None:
    """Draw loss, kept cost and the main score over the iterations, with the phases shaded.

    A panel without values is left out.

    Args:
        path: PNG file to write.
        curves: `Run.curves`.
        validation: `Run.validation`.
        title: Title above the plot.
        task: `Run.task`, which determines the main score.
    """
    panels: list[Callable[[Axes], None]] = []
    if any(point.loss is not None for point in curves):
        panels.append(lambda axes: draw_loss(axes, curves))
    if any(point.macs_ratio is not None for point in curves):
        panels.append(lambda axes: draw_kept_costs(axes, curves))
    score = scores_of(task)[0]
    if any(getattr(point, score.key) is not None for point in validation):
        panels.append(lambda axes: draw_score(axes, validation, score))
    # Without any values there is still a figure, which says so.
    num_rows = max(len(panels), 1)
    figure = new_figure(7.2, 0.8 + 1.9 * num_rows)
    all_axes = figure.subplots(num_rows, 1, sharex=True, squeeze=False)[:, 0]
    for axes, draw in zip(all_axes, panels, strict=False):
        draw(axes)
        style_axes(axes)
        shade_phases(axes, [*curves, *validation], named=axes is all_axes[0])
    if not panels:
        all_axes[0].text(0.5, 0.5, "no values yet", ha="center", va="center", color=MUTED)
    all_axes[-1].set_xlabel("iteration", fontsize=9, color=INK)
    all_axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    save_png(figure, path)


def new_figure(width_in: float, height_in: float) -> Figure:
    """Create an empty white figure, its size in inches.

    It is drawn by Agg and unknown to pyplot: no window opens, and no global state is touched.
    """
    figure = Figure(figsize=(width_in, height_in), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: str | Path, dots_per_inch: int = 150) -> None:
    """Write a figure to a PNG file, complete or not at all."""
    with atomic_path(path) as temporary, one_warning_for_missing_letters():
        # Without the version of matplotlib in it, equal figures give equal bytes.
        figure.savefig(temporary, format="png", dpi=dots_per_inch, metadata={"Software": None})


def style_axes(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Remove the needless sides of the frame and draw a faint grid along one axis."""
    axes.spines["top"].set_visible(False)
    axes.spines["right"].set_visible(False)
    if grid == "x":
        # Bars begin at the left side and draw it themselves.
        axes.spines["left"].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=8, length=3)
    axes.grid(axis=grid, color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def draw_loss(axes: Axes, curves: Sequence[TrainingPoint]) -> None:
    """Draw the loss, pale, and its running mean."""
    points = []
    for point in curves:
        if point.loss is not None:
            points.append((point.iteration, point.loss))
    iterations, loss = np.array(points, dtype=float).T
    axes.plot(iterations, loss, color=LINE_COLORS[0], linewidth=0.7, alpha=0.35)
    axes.plot(iterations, running_mean(loss), color=LINE_COLORS[0], linewidth=1.6)
    # A loss that falls by more than a factor of five is flat at its end on a linear axis.
    if loss.min() > 0 and np.percentile(loss, 99) / np.percentile(loss, 1) > 5:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(_minor_log_label))
        axes.tick_params(axis="y", which="minor", labelsize=8, labelcolor=INK)
    axes.set_ylabel("training loss", fontsize=9, color=INK)


def _minor_log_label(value: float, _position: int | None) -> str:
    """Label only 2, 3 and 5 times a power of ten: all nine labels would overlap."""
    if f"{value:e}"[0] in "235":
        return f"{value:g}"
    return ""


def draw_kept_costs(axes: Axes, curves: Sequence[TrainingPoint]) -> None:
    """Draw the kept fraction of each kind of cost, masks applied."""
    styles = ("-", "--", ":")
    for index, kind in enumerate(ALWAYS_REPORTED):
        points = []
        for point in curves:
            ratio = getattr(point, kind.ratio_key)
            if ratio is not None:
                points.append((point.iteration, ratio))
        if points:
            iterations, ratios = zip(*points, strict=True)
            style = styles[index % len(styles)]
            color = LINE_COLORS[index % len(LINE_COLORS)]
            axes.plot(iterations, ratios, style, color=color, linewidth=1.6, label=kind.label)
    # From zero on, because an axis that begins elsewhere would exaggerate the savings.
    axes.set_ylim(0, 1.08)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("kept", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def draw_score(axes: Axes, validation: Sequence[ValidationPoint], score: Score) -> None:
    """Draw a score over the iterations, a line per test set."""
    test_sets = list(dict.fromkeys(point.set for point in validation))
    lines = {}
    for index, test_set in enumerate(test_sets):
        points = []
        for point in validation:
            value = getattr(point, score.key)
            if point.set == test_set and value is not None:
                points.append((point.iteration, value))
        if not points:
            continue
        iterations, values = zip(*points, strict=True)
        (lines[test_set],) = axes.plot(
            iterations,
            values,
            "o-",
            color=LINE_COLORS[index % len(LINE_COLORS)],
            markersize=2.5,
            linewidth=1.4,
            clip_on=False,  # the last point lies on the frame
        )
    axes.set_ylabel(score.label, fontsize=9, color=INK)
    # Not by labels of the lines: matplotlib leaves those out that begin with an underscore.
    handles, labels = list(lines.values()), list(lines)
    axes.legend(handles, labels, frameon=False, fontsize=8, ncols=min(len(labels), 4))


def shade_phases(
    axes: Axes, points: Sequence[TrainingPoint | ValidationPoint], named: bool
) -> None:
    """Color the background by phase; `named` writes the names of the phases above the axes."""
    for phase, start, end in phase_spans(points):
        color = _PHASE_COLORS.get(phase, _OTHER_PHASE_COLOR)
        axes.axvspan(start, end, color=color, zorder=-1, linewidth=0)
        if named:
            axes.annotate(
                phase,
                ((start + end) / 2, 1.0),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=MUTED,
            )
    if points:
        axes.set_xlim(0, max(point.iteration for point in points))


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean over about a fortieth of the values, over fewer at both ends.

    Args:
        values: Shape (n,).

    Returns:
        Shape (n,).
    """
    half = len(values) // 80
    # sums[k] is the sum of the first k values, so that a window is a difference of two sums.
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
