"""What a network remembers of its construction, and the checks that its constructor makes."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any


def records_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Make a constructor leave all its arguments, defaults included, in `self.arguments`.

    The dictionary holds JSON-able values (a tuple becomes a list), so that a file can carry it and
    `type(network)(**network.arguments)` builds the same network again.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        init(self, *args, **kwargs)
        given = list(bound.arguments.items())[1:]
        self.arguments = {
            name: list(value) if isinstance(value, tuple) else value for name, value in given
        }

    return wrapper


def require_integers(least: int = 1, **values: Any) -> None:
    """Check that every named value is an integer of at least `least`.

    Raises:
        ValueError: one is not; the text names it and its value.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` (={value!r}) must be an integer of at least {least}")


def require_numbers(**values: Any) -> None:
    """Check that every named value is a number above zero.

    Raises:
        ValueError: one is not; the text names it and its value.
    """
    for name, value in values.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 0 < value < float("inf")
        ):
            raise ValueError(f"`{name}` (={value!r}) must be a finite number above 0")


def require_one_of(choices: Sequence[str], **values: Any) -> None:
    """Check that every named value is one of `choices`.

    Raises:
        ValueError: one is not; the text names it and its value.
    """
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(choices)}")


def require_fraction(**values: Any) -> None:
    """Check that every named value is a number from 0 to below 1.

    Raises:
        ValueError: one is not; the text names it and its value.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ValueError(f"`{name}` (={value!r}) must be a number from 0 to below 1")
