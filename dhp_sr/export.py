"""Write a model for other programs: `python dhp_sr/export.py --model FILE --format onnx`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Run as a script, Python puts this folder first on the search path, where our modules would hide
# libraries of the same name.
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == ROOT / "dhp_sr":
    sys.path[0] = str(ROOT)

from collections.abc import Sequence  # noqa: E402

from dhp_sr.cli.model_parsers import export_parser  # noqa: E402
from dhp_sr.utils.errors import exit_code  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 for success, 2 after a user's mistake or for an export that disagrees, 130 after an
        interrupt.
    """
    arguments = export_parser().parse_intermixed_args(argv)

    def command() -> None:
        # Only now: libraries take seconds to import, and --help needs none of them.
        from dhp_sr.cli.export import run_export

        run_export(arguments)

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
