"""The one error that means: the user can put this right; and how a script ends with it."""

import io
import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake in options, files or arguments; entry points print its message alone and exit with code 2."""


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a script's command; return its exit code: 2, with one message, for what its user can put right.

    Args:
        command: returns an exit code, or None for 0; 130 where the keyboard stops it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # file names may hold what no terminal can show
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(
            f"error: {error}; is the environment active? see README.md: . .venv/bin/activate",
            file=sys.stderr,
        )
    except OSError as error:
        print(f"error: cannot read or write: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 2
