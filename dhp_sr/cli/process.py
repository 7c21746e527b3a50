"""Global state of the process, for the entry points: seeds, cudnn, signals."""

import contextlib
import ctypes
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType

import numpy as np
import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _MAPPED = 2**31 - 1, 2**25
"""Bytes: free memory kept at most, and the size from which an allocation has pages of its own (glibc's largest)."""


def seed_everything(seed: int) -> None:
    """Seed every global random generator and let cudnn look for its fastest kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # libraries draw from the global generator
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True


def keep_memory() -> bool:
    """Let the process keep the memory that it frees, where the C library is glibc; return whether it does.

    By default glibc may give a feature map back to the system after every layer and fetch it again for the next one.
    The page faults can double the time of a network, or not, as the state of the heap will have it: measured times
    then depend on what the process did before.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        [mallopt(_TRIM_THRESHOLD, _KEPT), mallopt(_MMAP_THRESHOLD, _MAPPED)]
    )


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
        return (
            f"warning: {message}\n" if category is UserWarning else usual(message, category, *place)
        )

    warnings.formatwarning = show
    try:
        yield
    finally:
        warnings.formatwarning = usual
