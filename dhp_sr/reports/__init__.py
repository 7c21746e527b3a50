"""What a run looks like: tables, pictures and texts made from its folder alone.

Modules are imported as their names are asked for: tables need nothing, pictures matplotlib (extra `report`).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dhp_sr.reports.comparison import comparison_figure
    from dhp_sr.reports.plots import plot_curves, plot_widths
    from dhp_sr.reports.run import Run, read_run
    from dhp_sr.reports.tables import markdown_table, text_table
    from dhp_sr.reports.widths import widths_text
    from dhp_sr.reports.write import write_reports

_MODULES = {
    "Run": "run",
    "comparison_figure": "comparison",
    "markdown_table": "tables",
    "plot_curves": "plots",
    "plot_widths": "plots",
    "read_run": "run",
    "text_table": "tables",
    "widths_text": "widths",
    "write_reports": "write",
}

__all__ = [
    "Run",
    "comparison_figure",
    "markdown_table",
    "plot_curves",
    "plot_widths",
    "read_run",
    "text_table",
    "widths_text",
    "write_reports",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
