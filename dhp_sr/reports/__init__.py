"""What a run looks like: tables, pictures and texts made from its folder alone."""

from .benchmarks import latency_table, plot_speedups, step_table
from .comparison import comparison_figure
from .contests import controls_table, listening_table, plot_controls
from .plots import plot_curves, plot_widths
from .run import Run, read_run
from .tables import markdown_table, text_table
from .widths import widths_text
from .write import write_reports

__all__ = [
    "Run",
    "comparison_figure",
    "controls_table",
    "latency_table",
    "listening_table",
    "markdown_table",
    "plot_controls",
    "plot_curves",
    "plot_speedups",
    "plot_widths",
    "read_run",
    "step_table",
    "text_table",
    "widths_text",
    "write_reports",
]
