"""Places in the source from which a forward calls functions: the same traced as run.

A mean over channels has no module that could be told which of them are kept. It is known by the
module in whose forward it is, and by its place there:

    traced     x.mean(1, keepdim=True)     node `mean` of module `attention`, file.py, line 12, ...
    run        the same call               found again in the forward of `attention`, line 12, ...
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import torch
from torch import fx

_PASSED_OVER = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))
"""Folders whose files pass a call on: torch's own, and those of the tracer."""

_META_KEY = "call_site"


class CallSite(NamedTuple):
    """Place of a call in a source file."""

    file: str
    line: int | None
    end_line: int | None
    column: int | None
    end_column: int | None


def call_site(depth: int = 1) -> CallSite | None:
    """Return the place from which the network's code made the call that is going on.

    Args:
        depth: Frames to pass over, counted from the caller.

    Returns:
        None where no such code is on the stack.
    """
    frame: FrameType | None = sys._getframe(depth + 1)
    while frame is not None and frame.f_code.co_filename.startswith(_PASSED_OVER):
        frame = frame.f_back
    if frame is None:
        return None
    code: CodeType = frame.f_code
    # The positions of all instructions, each 2 bytes long; those of a call are the same before and
    # after Python has specialized it, unlike its offset.
    position = next(islice(code.co_positions(), frame.f_lasti // 2, None))
    # Each copy of a generated forward (`fx.GraphModule`) has a file name of its own.
    file = "" if code.co_filename.startswith("<") else code.co_filename
    return CallSite(file, *position)


def record_call_site(node: fx.Node) -> None:
    """Keep with a node from where it was called."""
    if not _is_hidden.get():
        node.meta[_META_KEY] = call_site(depth=2)


_is_hidden: ContextVar[bool] = ContextVar("_is_hidden", default=False)


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Record no places meanwhile: those of compiled code are not found again."""
    token = _is_hidden.set(True)
    try:
        yield
    finally:
        _is_hidden.reset(token)


def recorded_call_site(node: fx.Node) -> CallSite | None:
    """Return from where a node was called; None where that is not known."""
    site: CallSite | None = node.meta.get(_META_KEY)
    return site


def owner_of(node: fx.Node) -> str:
    """Return the module in whose forward a node was recorded, the innermost one."""
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return paths[-1] if paths else ""
