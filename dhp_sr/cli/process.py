"""Global state of the process, which entry points alone may touch: seeds, memory, signals."""

import contextlib
import ctypes
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType

import numpy as np
import torch

from dhp_sr.training.loop import StopRequest

# Parameters of glibc's mallopt and their largest values.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MAX_TRIM_BYTES = 2**31 - 1
_MAX_MMAP_BYTES = 2**25


def seed_everything(seed: int) -> None:
    """Seed every global random generator, and let cudnn search for its fastest kernels."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # libraries draw from the global generator
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True


def keep_memory() -> bool:
    """Let the process keep the memory that it frees, where the C library is glibc.

    By default, glibc may return a feature map to the system after every layer and request it
    again for the next one. The page faults can double the time of a network, depending on the
    state of the heap: measured times would depend on what the process did before.

    Returns:
        Whether the setting took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    # Other C libraries (musl) have no mallopt, or one without effect.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Both, always: `and` would skip the second where the first fails.
    trim_set = mallopt(_M_TRIM_THRESHOLD, _MAX_TRIM_BYTES)
    mmap_set = mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_BYTES)
    return bool(trim_set and mmap_set)


class StopSignal(StopRequest):
    """Ctrl-C and SIGTERM as a request to end a run."""

    def __init__(self) -> None:
        self._is_received = False
        self._is_deferred = False
        self._process = os.getpid()

    def __call__(self) -> bool:
        """Return whether a signal came during a step."""
        return self._is_received

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """See `StopRequest`; a second signal ends a step at once."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal.

        Raises:
            KeyboardInterrupt: No step is being taken, or this is the second signal.
        """
        # Loader processes inherit this handler. Ctrl-C reaches them, too, while their batches are
        # still needed.
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self._is_received or not self._is_deferred:
            raise KeyboardInterrupt
        self._is_received = True
        # os.write: print() may deadlock inside a signal handler.
        os.write(2, b"stopping after this iteration; Ctrl-C stops at once\n")


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Let Ctrl-C and SIGTERM end a run after the step that it is taking, and otherwise at once.

    Yields:
        The request, for `training.driver.train`.
    """
    # Python allows signal handlers in the main thread alone.
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest()
        return
    stop = StopSignal()
    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, stop.handle)
    try:
        yield stop
    finally:
        # A program that calls train() as a library gets its handlers back.
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print our warnings as one line, without the line of code that raised them."""
    default_format = warnings.formatwarning

    def format_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        # Ours are plain UserWarnings; others come from libraries, whose line of code tells more.
        if category is UserWarning:
            return f"warning: {message}\n"
        return default_format(message, category, filename, lineno, line)

    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = default_format
