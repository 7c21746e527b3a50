"""All reports of a run, written into its folder."""

from pathlib import Path

from dhp_sr.reports.plots import plot_curves, plot_widths
from dhp_sr.reports.run import read_run
from dhp_sr.reports.widths import widths_text
from dhp_sr.utils.files import write_text


def write_reports(folder: str | Path) -> list[Path]:
    """Write `widths.txt`, `plots/widths.png` and `plots/curves.png`, those of them that the run has values for.

    Args:
        folder: `experiments/<name>`, finished or not.

    Returns:
        The files written.

    Raises:
        UserError: the folder or a file in it cannot be read as a run.
        OSError: a file cannot be written.
    """
    run = read_run(folder)
    title = str((run.metrics or {}).get("name", run.folder.name))
    written = []
    if run.widths:
        written += [run.folder / "widths.txt", run.folder / "plots" / "widths.png"]
        write_text(written[0], widths_text(run.widths))
        plot_widths(written[1], run.widths, title)
    if run.curves or run.validation:
        written.append(run.folder / "plots" / "curves.png")
        plot_curves(written[-1], run.curves, run.validation, title, run.task)
    return written
