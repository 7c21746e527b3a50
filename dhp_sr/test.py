"""Score models: `python dhp_sr/test.py -opt FILE` or `... --model FILE ... --data FOLDER ...`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Run as a script, Python puts this folder first on the search path, where our modules would hide
# libraries of the same name.
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == ROOT / "dhp_sr":
    sys.path[0] = str(ROOT)

from collections.abc import Sequence  # noqa: E402

from dhp_sr.cli.model_parsers import evaluate_parser  # noqa: E402
from dhp_sr.utils.errors import exit_code  # noqa: E402
from dhp_sr.utils.files import working_root  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 for success, 2 after a user's mistake, 130 after an interrupt.
    """
    arguments = evaluate_parser().parse_args(argv)

    def command() -> None:
        # Only now: libraries take seconds to import, and --help needs none of them.
        from dhp_sr.cli.evaluate import run_evaluate

        run_evaluate(arguments, working_root(ROOT))

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
