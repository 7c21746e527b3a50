"""One HTML file that needs nothing else: no network, no other file, no script that is not its own."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from dhp_sr.reports.page.context import context
from dhp_sr.reports.run import Run
from dhp_sr.reports.saved_results import read_run_or_kept
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import write_text

SCRIPTS = ("svg.js", "scatter.js", "lines.js", "slider.js", "heat.js", "start.js")
"""In the order in which they stand in the page."""


def write_page(path: str | Path, folders: Sequence[str | Path]) -> Path:
    """Write the page of a run, or of several side by side.

    Args:
        path: the HTML file.
        folders: `experiments/<name>` each, finished or not; or files `results/<name>.json`.

    Returns:
        The file written.

    Raises:
        UserError: a folder or a file in it cannot be read as a run, or none is given.
        OSError: the file cannot be written.
    """
    if not folders:
        raise UserError("expected at least one run folder (experiments/<name>), found none")
    target, runs = Path(path), [read_run_or_kept(folder) for folder in folders]
    try:
        text = page(runs)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        names = ", ".join(str(folder) for folder in folders)
        raise UserError(
            f"{names}: expected the files of a run as it wrote them, found others: {error!r}"
        ) from error
    write_text(target, text)
    return target


def page(runs: Sequence[Run]) -> str:
    """Return the page as text."""
    script = "\n".join(_own(name) for name in SCRIPTS)
    return _environment().get_template("page.html.j2").render(
        page=context(runs),
        style=Markup(_own("style.css")),
        script=Markup(script),
        # The address of the page's only script; the browser runs no other, whatever a name in the page may hold.
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{_digest(script)}'",
    )  # fmt: skip


def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_own),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _own(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")
