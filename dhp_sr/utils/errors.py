"""`UserError`, and how a command reports it."""

import io
import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake in options, files or arguments that the user can correct.

    Entry points print the message without a traceback and exit with code 2.
    """


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command and turn the errors that a user can correct into one message.

    Args:
        command: returns an exit code, or None for success.

    Returns:
        The command's exit code; 2 after a user's mistake, 130 after an interrupt.
    """
    for output in (sys.stdout, sys.stderr):
        # File names can hold bytes that the terminal's encoding cannot show.
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        hint = "is the environment active? see README.md: . .venv/bin/activate"
        print(f"error: {error}; {hint}", file=sys.stderr)
    except OSError as error:
        print(f"error: cannot read or write: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 2
