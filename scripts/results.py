"""Save the results of a run, and write the tables of the README and of docs/ from what is saved.

    $ python scripts/results.py add experiments/NAME --hardware "2 cores, ..." --minutes 60
    $ python scripts/results.py add experiments/X_dhp experiments/X_uniform --name X \
          --hardware ... --minutes 60
    $ python scripts/results.py tables
    $ python scripts/results.py plot

`add` copies metrics and environment of a finished run to results/NAME.json. Of several runs that
began with the same network, the final models become rows of one table, each named by the last
word of its run's name. `tables` rewrites every table of README.md and docs/ that stands between
`<!-- results/NAME.json -->` and `<!-- end -->`; with `--check` it changes nothing and fails if a
table differs. `plot` draws docs/images/NAME.png for the benchmarks that have a plot.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.speed_tables import (  # noqa: E402
    inference_table,
    latency_budgets_table,
    loader_table,
    peers_table,
    runtimes_table,
    step_basicsr_table,
)
from benchmarks.tables import (  # noqa: E402
    after_cut_table,
    coverage_table,
    cut_without_training_table,
    headline_table,
    latency_table,
    method_comparison_table,
    plot_method_comparison,
    plot_speedups,
    stability_table,
    step_table,
)
from dhp_sr.reports.run_files import read_json  # noqa: E402
from dhp_sr.reports.tables import markdown_table  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402
from dhp_sr.utils.files import write_json, write_text  # noqa: E402

MARKED_TABLE = re.compile(r"(<!-- (results/[\w.-]+\.json) -->\n).*?(<!-- end -->)", re.DOTALL)

TABLES = {
    "after_cut": after_cut_table,
    "coverage": coverage_table,
    "cut_without_training": cut_without_training_table,
    "headline": headline_table,
    "inference": inference_table,
    "loader": loader_table,
    "peers": peers_table,
    "step_basicsr": step_basicsr_table,
    "step": step_table,
    "latency": latency_table,
    "latency_budgets": latency_budgets_table,
    "method_comparison": method_comparison_table,
    "runtimes": runtimes_table,
    "stability_analysis": stability_table,
}
"""`kind` of a benchmark's file -> its table; a file without a kind holds the results of a run."""

PLOTS = {"latency": plot_speedups, "method_comparison": plot_method_comparison}
"""Name of a benchmark's file -> its plot."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: arguments.run(arguments))


def add(arguments: argparse.Namespace) -> int:
    """Save the results of a run, or of several as one table."""
    runs = [read_results(Path(folder)) for folder in arguments.run_folders]
    if len(runs) > 1 and not arguments.name:
        raise UserError("expected --name NAME for the results of several runs, found none")
    results = runs[0] if len(runs) == 1 else merge_results(runs, arguments.name)
    about = {"hardware": arguments.hardware, "minutes": arguments.minutes, "note": arguments.note}
    path = f"results/{arguments.name or results['metrics']['name']}.json"
    write_json(ROOT / path, {**about, **results})
    print(path)
    return 0


def tables(arguments: argparse.Namespace) -> int:
    """Write, or with `--check` compare, the tables of the README and the documentation."""
    outdated = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        updated = with_tables(text, ROOT)
        if updated == text:
            continue
        if arguments.check:
            outdated.append(page.relative_to(ROOT))
        else:
            write_text(page, updated)
    for path in outdated:
        print(f"{path}: out of date; run python scripts/results.py tables", file=sys.stderr)
    return 1 if outdated else 0


def plot(arguments: argparse.Namespace) -> int:
    """Draw the plots of the benchmarks whose results are saved."""
    drawn = []
    for name, draw in PLOTS.items():
        results = read_json(ROOT / "results" / f"{name}.json")
        if results is not None:
            draw(ROOT / "docs" / "images" / f"{name}.png", results["rows"])
            drawn.append(name)
            print(f"docs/images/{name}.png")
    if not drawn:
        names = ", ".join(f"results/{name}.json" for name in PLOTS)
        raise UserError(f"expected one of {names}, found none; run benchmarks/*.py")
    return 0


def read_results(run: Path) -> dict[str, Any]:
    """Read metrics and environment of a finished run.

    Raises:
        UserError: A file is missing or damaged.
    """
    results = {}
    for name in ("metrics", "environment"):
        path = run / f"{name}.json"
        content = read_json(path)
        if content is None:
            raise UserError(f"{path}: expected the file of a finished run, found none")
        results[name] = content
    if not isinstance(results["metrics"].get("name"), str):
        raise UserError(f"{run / 'metrics.json'}: expected the results of a run with a name")
    return results


def merge_results(runs: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Put the final models of several runs into the table of the first run.

    Args:
        runs: Results of `read_results`.
        name: Name of the merged results.
    """
    first = runs[0]["metrics"]
    *rows, _ = first["rows"]  # inputs and dense network, without the final model
    for run in runs:
        metrics = run["metrics"]
        method = metrics["name"].split("_")[-1]
        rows.append({**metrics["rows"][-1], "model": method})
    merged = {"name": name}
    for key in ("task", "scale", "target", "macs_input"):
        merged[key] = first[key]
    return {**runs[0], "metrics": {**merged, "rows": rows}}


def with_tables(text: str, root: Path) -> str:
    """Replace every marked table of a text by that of its JSON file.

    Args:
        text: Markdown with marks, see the top of this file.
        root: Folder that the paths in the marks start from.

    Raises:
        UserError: A mark names a file that does not exist or is no file of results.
    """

    def replacement(match: re.Match[str]) -> str:
        begin, path, end = match.groups()
        return begin + table_of(root / path) + end

    return MARKED_TABLE.sub(replacement, text)


def table_of(path: Path) -> str:
    """Format the table of a file of results in markdown.

    Raises:
        UserError: The file does not exist or is no file of results.
    """
    results = read_json(path)
    if results is None:
        raise UserError(f"{path}: expected a file of results, found none")
    kind = results.get("kind")
    if kind is None and "metrics" in results:
        return markdown_table(results["metrics"])
    if kind in TABLES and "rows" in results:
        return TABLES[kind](results["rows"])
    raise UserError(f"{path}: expected the results of a run or of a benchmark, found kind {kind!r}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    add_parser = commands.add_parser("add", help="save the results of a run")
    add_parser.add_argument("run_folders", nargs="+", metavar="RUN", help="experiments/NAME")
    add_parser.add_argument("--name", help="name of the file; default: that of the run")
    add_parser.add_argument("--hardware", required=True, help="processor, cores, memory")
    add_parser.add_argument(
        "--minutes", type=float, required=True, help="wall time of all phases together"
    )
    add_parser.add_argument("--note", default="", help="remark for readers")
    add_parser.set_defaults(run=add)
    tables_parser = commands.add_parser("tables", help="write the tables of README and docs")
    tables_parser.add_argument("--check", action="store_true", help="only compare")
    tables_parser.set_defaults(run=tables)
    plot_parser = commands.add_parser("plot", help="draw the plots of the benchmarks")
    plot_parser.set_defaults(run=plot)
    return parser


if __name__ == "__main__":
    sys.exit(main())
