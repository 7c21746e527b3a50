"""Make the page of one run or of several: `python dhp_sr/report.py RUN [RUN ...] [--output FILE.html]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == ROOT / "dhp_sr":
    sys.path[0] = str(ROOT)  # run as a script: our modules must not hide libraries of the same name

import argparse  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 success, 2 a user's mistake."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: _write(arguments))


def _write(arguments: argparse.Namespace) -> None:
    from dhp_sr.reports.page import write_page

    runs, output = [Path(run) for run in arguments.runs], arguments.output
    if output is None:
        if len(runs) > 1 or runs[0].is_file():
            raise UserError(
                "expected --output FILE.html for a comparison or for kept figures, found none"
            )
        output = runs[0] / "report.html"
    print(write_page(output, runs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Make one HTML file, which needs nothing else, of a run or of a comparison.",
        allow_abbrev=False,
    )
    what = "folder of a run, finished or not (experiments/NAME), or its kept figures (results/NAME.json)"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=what)
    parser.add_argument(
        "--output", metavar="FILE.html", help="default for one run: RUN/report.html"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
