"""Make the page of one run or of several: `python dhp_sr/report.py RUN [RUN ...]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Run as a script, Python puts this folder first on the search path, where our modules would hide
# libraries of the same name.
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == ROOT / "dhp_sr":
    sys.path[0] = str(ROOT)

from collections.abc import Sequence  # noqa: E402

from dhp_sr.cli.parsers import report_parser  # noqa: E402
from dhp_sr.utils.errors import UserError, exit_code  # noqa: E402
from dhp_sr.utils.overwriting import check_outputs  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 for success, 2 after a user's mistake, 130 after an interrupt.
    """
    arguments = report_parser().parse_args(argv)

    def command() -> None:
        # The page is made without torch, so there is no service module in cli/ for it.
        from dhp_sr.reports.page import write_page

        runs = [Path(run) for run in arguments.runs]
        output = arguments.output
        if output is None:
            if len(runs) > 1 or runs[0].is_file():
                raise UserError(
                    "expected --output FILE.html for a comparison or for saved results; "
                    "only a single run has a default"
                )
            output = runs[0] / "report.html"
        check_outputs({"--output": output}, runs, (".html", ".htm"))
        print(write_page(output, runs))

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
