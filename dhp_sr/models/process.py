"""Global state of the process, for the entry points: seeds, cudnn, signals."""

import contextlib
import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed every global random generator and let cudnn look for its fastest kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # libraries draw from the global generator
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into an answer `True` of the given function; a second Ctrl-C ends at once."""
    asked: list[int] = []

    def take(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        os.write(2, b"stopping after this iteration; Ctrl-C stops at once\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Show our warnings as one line, without the place in the code that raised them."""
    usual = warnings.formatwarning

    def show(message: Warning | str, category: type[Warning], *place: object) -> str:
        return f"warning: {message}\n" if category is UserWarning else usual(message, category, *place)

    warnings.formatwarning = show
    try:
        yield
    finally:
        warnings.formatwarning = usual
