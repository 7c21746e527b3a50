"""Compress a trained network: `python dhp_sr/compress.py --model FILE --images FOLDER ...`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Run as a script, Python puts this folder first on the search path, where our modules would hide
# libraries of the same name.
if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == ROOT / "dhp_sr":
    sys.path[0] = str(ROOT)

import types  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

from dhp_sr.cli.parsers import compress_parser  # noqa: E402
from dhp_sr.utils.errors import exit_code  # noqa: E402
from dhp_sr.utils.files import working_root  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 for success, 2 after a user's mistake or for a target that cannot be met, 130 after an
        interrupt, with the best so far written.
    """
    arguments = compress_parser().parse_intermixed_args(argv)

    def command() -> int | None:
        # Only now: libraries take seconds to import, and --help needs none of them.
        from dhp_sr.cli.compress import run_compress

        return run_compress(arguments, working_root(ROOT))

    return exit_code(command)


class _CallableModule(types.ModuleType):
    """This module, which may take the place of the function `dhp_sr.compress` once imported."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compress a network, see `dhp_sr.compress`."""
        from dhp_sr.cli.compress import compress

        return compress(*args, **kwargs)


# Importing a module binds it in its package, over the function of the same name: both are callable.
sys.modules[__name__].__class__ = _CallableModule


if __name__ == "__main__":
    sys.exit(main())
