"""`UserError`, how a command reports it, and suggestions for misspelled names."""

import difflib
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence


class UserError(ValueError):
    """A mistake in options, files or arguments that the user can correct.

    Entry points print the message without a traceback and exit with code 2.
    """


class LostProcessError(UserError):
    """A process that a run depends on was ended from outside; the run can be resumed."""


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command and turn an error that the user can correct into a message.

    Args:
        command: Returns an exit code, or None for success.

    Returns:
        The command's exit code; 2 after a user's mistake, 130 after an interrupt.
    """
    for output in (sys.stdout, sys.stderr):
        # File names can hold bytes that the terminal's encoding cannot show.
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    # Anything else is a bug and keeps its traceback.
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        hint = "is the environment active? see README.md: . .venv/bin/activate"
        print(f"error: {error}; {hint}", file=sys.stderr)
    except OSError as error:
        print(f"error: cannot read or write: {error}", file=sys.stderr)
    except (MemoryError, RuntimeError) as error:
        shortage = memory_shortage(error)
        if shortage is None:
            raise
        print(f"error: {shortage}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 2


def memory_shortage(error: Exception) -> str | None:
    """Return a message about memory that is missing; None for another error."""
    # torch has no type of its own for this on the CPU; the first of many lines says how much.
    lines = str(error).splitlines() or ["no more is known"]
    if isinstance(error, RuntimeError) and "tried to allocate" not in lines[0].lower():
        return None
    return f"not enough memory: {lines[0]}"


def constructor_error(name: str, arguments: Mapping[str, object], error: Exception) -> UserError:
    """Error of a network that cannot be built, whatever its constructor raised.

    Constructors of other people raise what they like for an argument that they do not expect.

    Args:
        name: Name of the network.
        arguments: Arguments of its constructor.
        error: The error that it raised.
    """
    kind = type(error).__name__
    return UserError(f"network {name} cannot be built from {dict(arguments)}: {kind}: {error}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Text ` (did you mean 'x'?)` for the known name closest to `word`, or an empty string."""
    # `edsr` is as near to `EDSR` as can be; difflib would see no common letter.
    by_lower_case = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), list(by_lower_case), n=1, cutoff=0.5)
    if not matches:
        return ""
    return f" (did you mean {by_lower_case[matches[0]]!r}?)"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Message about a name that is not in a table, with suggestions.

    Args:
        kind: What the name stands for, such as `network type`.
        name: The unknown name.
        known: Names in the table.
    """
    names = list(known)
    return f"{kind} {name!r} is unknown{nearest(name, names)}; known: {', '.join(names)}"


def abbreviate(names: Sequence[str], limit: int = 5) -> str:
    """Text with the first few names and the number of the others."""
    text = ", ".join(names[:limit])
    if len(names) > limit:
        text += f" and {len(names) - limit} more"
    return text
