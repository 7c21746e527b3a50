"""Keep the figures of a run, and write the README's tables from what is kept.

    $ python scripts/results.py add experiments/NAME --hardware "2 cores, ..." --minutes 60
    $ python scripts/results.py add experiments/X_dhp experiments/X_uniform --name X --hardware ... --minutes 60
    $ python scripts/results.py tables
    $ python scripts/results.py plot

`add` copies a finished run's figures to results/NAME.json; of several runs, which began with the same network, the
final models become the rows of one table, each called by the last part of its run's name. `tables` rewrites every table
of README.md that stands between `<!-- results/NAME.json -->` and `<!-- end -->`; with `--check` it changes nothing and
fails if one differs.
`plot` draws results/NAME.png for the benchmarks that have a picture.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tables import (  # noqa: E402
    latency_table,
    method_comparison_table,
    plot_method_comparison,
    plot_speedups,
    stability_table,
    step_table,
)
from dhp_sr.reports.tables import markdown_table  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402
from dhp_sr.utils.files import write_json, write_text  # noqa: E402

MARKED = re.compile(r"(<!-- (results/[\w.-]+\.json) -->\n).*?(<!-- end -->)", re.DOTALL)

TABLES = {
    "step": step_table,
    "latency": latency_table,
    "method_comparison": method_comparison_table,
    "stability_analysis": stability_table,
}
"""Kind of a benchmark's file -> its table; a file without a kind holds the figures of a run."""

PLOTS = {"latency": plot_speedups, "method_comparison": plot_method_comparison}
"""Name of a benchmark's file -> its picture."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: arguments.run(arguments))


def add(arguments: argparse.Namespace) -> int:
    """Copy the figures of a run, or of several."""
    several = [_figures(Path(run)) for run in arguments.run_folders]
    names = [kept["metrics"]["name"] for kept in several]
    if len(several) > 1 and not arguments.name:
        raise UserError("expected --name NAME for the figures of several runs, found none")
    kept = several[0] if len(several) == 1 else _side_by_side(several, arguments.name)
    facts = {"hardware": arguments.hardware, "minutes": arguments.minutes, "note": arguments.note}
    path = f"results/{arguments.name or names[0]}.json"
    write_json(ROOT / path, {**facts, **kept})
    print(path)
    return 0


def _side_by_side(several: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the rows of the first run, and in place of its final model those of all runs."""
    first = several[0]["metrics"]
    about = {key: first[key] for key in ("task", "scale", "target", "macs_input")}
    last = [
        {**kept["metrics"]["rows"][-1], "model": kept["metrics"]["name"].split("_")[-1]}
        for kept in several
    ]
    return {**several[0], "metrics": {"name": name, **about, "rows": [*first["rows"][:-1], *last]}}


def _figures(run: Path) -> dict[str, Any]:
    """Return metrics and environment of a finished run."""
    kept = {}
    for name in ("metrics", "environment"):
        path = run / f"{name}.json"
        if not path.is_file():
            raise UserError(f"{path}: expected the file of a finished run, found none")
        kept[name] = _read(path)
    if not isinstance(kept["metrics"].get("name"), str):
        raise UserError(
            f"{run / 'metrics.json'}: expected the figures of a run, found none with a name"
        )
    return kept


def tables(arguments: argparse.Namespace) -> int:
    """Write, or with `--check` compare, the tables of the README."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    wanted = with_tables(text, ROOT)
    if arguments.check:
        return 0 if wanted == text else 1
    write_text(readme, wanted)
    return 0


def plot(arguments: argparse.Namespace) -> int:
    """Draw the pictures that belong to the tables of the benchmarks."""
    sources = {name: ROOT / "results" / f"{name}.json" for name in PLOTS}
    found = {name: source for name, source in sources.items() if source.is_file()}
    if not found:
        raise UserError(
            f"expected one of {', '.join(map(str, sources.values()))}, found none; run benchmarks/*.py"
        )
    for name, source in found.items():
        PLOTS[name](source.with_suffix(".png"), _read(source)["rows"])
        print(f"results/{name}.png")
    return 0


def with_tables(text: str, root: Path) -> str:
    """Return `text` with every marked table made anew from its JSON.

    Raises:
        UserError: a table names a file that is not there.
    """

    def table(match: re.Match[str]) -> str:
        path = root / match[2]
        if not path.is_file():
            raise UserError(f"README.md names {match[2]}, which does not exist")
        return match[1] + _table(path) + match[3]

    return MARKED.sub(table, text)


def _table(path: Path) -> str:
    found = _read(path)
    kind, key = found.get("kind"), "metrics" if "kind" not in found else "rows"
    if key not in found or (kind is not None and kind not in TABLES):
        raise UserError(
            f"{path}: expected the figures of a run or of a benchmark, found kind {kind!r}"
        )
    return markdown_table(found[key]) if kind is None else TABLES[kind](found[key])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, found: {error}; make the file again") from error
    if not isinstance(found, dict):
        raise UserError(
            f"{path}: expected a JSON object, found a {type(found).__name__}; make the file again"
        )
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    adding = commands.add_parser("add", help="keep a run's figures")
    adding.add_argument("run_folders", nargs="+", metavar="RUN")
    adding.add_argument("--name", help="of the file; default: the run's")
    adding.add_argument("--hardware", required=True)
    adding.add_argument("--minutes", type=float, required=True, help="wall time of all phases")
    adding.add_argument("--note", default="")
    adding.set_defaults(run=add)
    writing = commands.add_parser("tables", help="write the README's tables")
    writing.add_argument("--check", action="store_true")
    writing.set_defaults(run=tables)
    drawing = commands.add_parser("plot", help="draw the pictures of the benchmarks")
    drawing.set_defaults(run=plot)
    return parser


if __name__ == "__main__":
    sys.exit(main())
