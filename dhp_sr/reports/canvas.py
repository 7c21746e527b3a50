"""Figures without a window and without pyplot's global state."""

from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dhp_sr.utils.files import atomic_path

INK = "#1f2933"
MUTED = "#7b8794"
BEFORE = "#d3dbe4"
AFTER = "#2b6cb0"
LINES = ("#2b6cb0", "#d9772b", "#2f855a", "#9b3fa3", "#b83232", "#6b7280", "#a18207")
"""Colours of lines, distinct also without red-green vision in this order."""


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty white figure of the given size in inches, drawn by Agg."""
    figure = Figure(figsize=(width_in, height_in), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: str | Path, dots_per_inch: int = 150) -> None:
    """Write `figure` to a PNG file, whole or not at all; equal figures give equal bytes."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dots_per_inch, metadata={"Software": None})


def tidy(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Leave of the frame what is needed, and draw a faint grid along one axis."""
    for side in ("top", "right", "left" if grid == "x" else "top"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=8, length=3)
    axes.grid(axis=grid, color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
