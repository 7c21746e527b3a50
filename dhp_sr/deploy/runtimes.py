"""Runtimes that compute model files, and the function that opens a file with the right runtime.

A new runtime is a final subclass of `Runner` in a new module, and a row in `RUNTIMES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dhp_sr.deploy.runner import Runner
from dhp_sr.deploy.torch_runner import PRECISIONS, TorchRunner
from dhp_sr.utils.errors import UserError, nearest

Opener = Callable[[Path, torch.device, str, int | None], Runner]
"""(path, device, precision, threads) -> the model, ready to run."""


@dataclass(frozen=True)
class Runtime:
    """A program that computes networks."""

    suffixes: tuple[str, ...]
    """Suffixes of the files that it runs, in lower case; empty: every other file."""
    open: Opener


def _open_onnx(path: Path, device: torch.device, precision: str, threads: int | None) -> Runner:
    # Only now: onnxruntime is an optional dependency, and takes a second to import.
    from dhp_sr.deploy.onnx_runner import OnnxRunner

    return OnnxRunner(path, device, precision, threads)


RUNTIMES = {
    "onnxruntime": Runtime((".onnx",), _open_onnx),
    "torch": Runtime((), TorchRunner),
}
"""Name -> runtime; the first whose suffixes fit a file is its default."""


def open_runner(
    path: str | Path,
    runtime: str | None = None,
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
) -> Runner:
    """Open a model file, ready to run. Nothing in it is executed but its arithmetic.

    Args:
        path: Safetensors file of dhp_sr, or any `.onnx` from an image to a single result.
        runtime: Key of `RUNTIMES`; None: by the file's suffix.
        device: Where to compute; ONNX files run on the CPU.
        precision: `fp32`, `bf16` or `fp16`; an ONNX file has a fixed precision.
        threads: Of the CPU; None: as many as PyTorch uses.

    Returns:
        The runner; classifiers included, see `runner.check_restores_images`.

    Raises:
        UserError: The runtime or precision is unknown, the file is no such model, or it cannot
            run in this way.
    """
    path = Path(path)
    if precision not in PRECISIONS:
        raise UserError(f"expected a precision among {', '.join(PRECISIONS)}, got {precision!r}")
    name = default_runtime(path) if runtime is None else runtime
    if name not in RUNTIMES:
        raise UserError(
            f"expected a runtime among {', '.join(RUNTIMES)}, got {name!r}{nearest(name, RUNTIMES)}"
        )
    return RUNTIMES[name].open(path, torch.device(device), precision, threads)


def default_runtime(path: str | Path) -> str:
    """Return the name of the runtime for a file, by its suffix."""
    suffix = Path(path).suffix.lower()
    for name, runtime in RUNTIMES.items():
        if suffix in runtime.suffixes:
            return name
    return "torch"
