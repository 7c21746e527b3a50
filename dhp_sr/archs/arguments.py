"""Records of a network's constructor arguments, and checks of their values."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard


def records_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Decorate a constructor so that it stores its arguments, defaults included.

    They are in `self.arguments`, as values that JSON can hold (a tuple becomes a list): a model
    file carries them, and `type(network)(**network.arguments)` builds the same network again.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: object, **kwargs: object) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        # The constructor checks the values first, so that only valid ones are recorded.
        init(self, *args, **kwargs)
        arguments = dict(bound.arguments)
        del arguments["self"]
        for name, value in arguments.items():
            if isinstance(value, tuple):
                arguments[name] = list(value)
        self.arguments = arguments

    return wrapper


def require_integers(minimum: int = 1, **values: object) -> None:
    """Check that every named value is an integer of at least `minimum`.

    Raises:
        ValueError: With the name and the value.
    """
    for name, value in values.items():
        # bool is a subclass of int, but `num_levels: true` is a mistake.
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"`{name}` (={value!r}) must be an integer of at least {minimum}")


def require_numbers(**values: object) -> None:
    """Check that every named value is a finite number above 0.

    Raises:
        ValueError: With the name and the value.
    """
    for name, value in values.items():
        if not _is_number(value) or not 0 < value < math.inf:
            raise ValueError(f"`{name}` (={value!r}) must be a finite number above 0")


def require_fraction(**values: object) -> None:
    """Check that every named value is a number from 0 to below 1.

    Raises:
        ValueError: With the name and the value.
    """
    for name, value in values.items():
        if not _is_number(value) or not 0 <= value < 1:
            raise ValueError(f"`{name}` (={value!r}) must be a number from 0 to below 1")


def require_choice(choices: Sequence[object], **values: object) -> None:
    """Check that every named value is among `choices`.

    Raises:
        ValueError: With the name, the value and the choices.
    """
    for name, value in values.items():
        if value not in choices:
            known = ", ".join(str(choice) for choice in choices)
            raise ValueError(f"`{name}` (={value!r}) must be one of {known}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
