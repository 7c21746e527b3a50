"""BasicSR's own functions, to compare ours with."""

import importlib
import warnings
from types import ModuleType

import pytest

from dhp_sr.basicsr_adapter.shim import prepare_basicsr


def from_basicsr(name: str) -> ModuleType:
    """Return a module of BasicSR; the test is skipped where BasicSR is not installed."""
    try:
        prepare_basicsr()
    except ModuleNotFoundError as missing:
        pytest.skip(str(missing))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports are deprecated ones
        return importlib.import_module(f"basicsr.{name}")
