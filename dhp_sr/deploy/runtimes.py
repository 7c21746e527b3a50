"""Runtimes that compute models, and the functions that open a file with a runtime.

A new runtime is a final subclass of `Runner` in a new module, and a row in `RUNTIMES`. Files of
dhp_sr are run by PyTorch as they are; other runtimes get them as an ONNX model, exported in memory
each time, so that nothing beside the file can become stale.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from dhp_sr.deploy.graph_info import Graph
from dhp_sr.deploy.runner import Runner
from dhp_sr.deploy.torch_runner import PRECISIONS, TorchRunner
from dhp_sr.utils.errors import UserError, nearest

AUTO = "auto"

Opener = Callable[[Graph, torch.device, str | None, int | None], Runner]
"""(model, device, precision, threads) -> the model, ready to run. Without a precision, what the
file does not fix is computed in fp32; in OpenVINO's int8 files, see `inner_precision`."""

GRAPH_SUFFIXES = (".onnx", ".xml")


@dataclass(frozen=True)
class Runtime:
    """A program that computes networks."""

    suffixes: tuple[str, ...]
    """Suffixes of the files that it reads, in lower case; empty: files of dhp_sr."""
    open: Opener
    packages: tuple[str, ...] = ()
    """Packages that it needs beside PyTorch."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    """Types of torch devices that it computes on."""
    is_candidate: bool = True
    """Whether `runtime_trial` tries it."""

    @property
    def is_installed(self) -> bool:
        """Whether all packages are there; none is imported."""
        return all(importlib.util.find_spec(name) is not None for name in self.packages)


def _open_torch(
    graph: Graph,
    device: torch.device,
    precision: str | None,
    threads: int | None,
    mode: Literal["eager", "compile"] = "eager",
) -> Runner:
    return TorchRunner(graph.path, device, precision or "fp32", threads, mode=mode)


# Imported only when asked for: optional dependencies, which take a second to import.
def _open_onnx(
    graph: Graph,
    device: torch.device,
    precision: str | None,
    threads: int | None,
    runtime: str = "onnxruntime",
) -> Runner:
    from dhp_sr.deploy.onnx_runner import OnnxRunner

    return OnnxRunner(graph, device, precision or "fp32", threads, runtime=runtime)


def _open_openvino(
    graph: Graph,
    device: torch.device,
    precision: str | None,
    threads: int | None,
    openvino_device: str = "CPU",
) -> Runner:
    from dhp_sr.deploy.openvino_runner import OpenVinoRunner

    return OpenVinoRunner(graph, device, precision, threads, openvino_device=openvino_device)


_ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

RUNTIMES = {
    "onnxruntime": Runtime((".onnx",), _open_onnx, _ONNX_PACKAGES),
    "openvino": Runtime((".xml", ".onnx"), _open_openvino, ("openvino",), ("cpu",)),
    # Intel's graphics and neural processors, which PyTorch does not count as devices. They round
    # otherwise than a CPU, so they are taken only where they are named.
    "openvino-gpu": Runtime(
        (".xml", ".onnx"),
        partial(_open_openvino, openvino_device="GPU"),
        ("openvino",),
        ("cpu",),
        is_candidate=False,
    ),
    "openvino-npu": Runtime(
        (".xml", ".onnx"),
        partial(_open_openvino, openvino_device="NPU"),
        ("openvino",),
        ("cpu",),
        is_candidate=False,
    ),
    "tensorrt": Runtime(
        (".onnx",), partial(_open_onnx, runtime="tensorrt"), _ONNX_PACKAGES, ("cuda",)
    ),
    # Compiling takes up to a minute for every new shape, so it is never tried unasked.
    "torch.compile": Runtime((), partial(_open_torch, mode="compile"), is_candidate=False),
    "torch": Runtime((), _open_torch),
}
"""Name -> runtime; the first whose suffixes fit a file is its default."""


def open_runner(
    path: str | Path,
    runtime: str | None = None,
    *,
    device: str | torch.device = "cpu",
    precision: str | None = None,
    threads: int | None = None,
) -> Runner:
    """Open a model file, ready to run. Nothing in it is executed but its arithmetic.

    Args:
        path: Safetensors file of dhp_sr, or any `.onnx` or OpenVINO `.xml` from an image to a
            single result.
        runtime: Key of `RUNTIMES`; None: by the file's suffix. See `runtime_trial.open_fastest`
            for the fastest.
        device: Where to compute.
        precision: `fp32`, `bf16` or `fp16`; an ONNX file has a fixed precision. None: fp32, but
            bf16 between the int8 layers of OpenVINO's files where the processor has it.
        threads: Threads of the CPU; None: as many as PyTorch uses.

    Returns:
        The runner; classifiers included, see `runner.check_restores_images`.

    Raises:
        UserError: The runtime or precision is unknown, the file is no such model, or it cannot
            run in this way.
    """
    path = Path(path)
    if precision is not None and precision not in PRECISIONS:
        raise UserError(f"expected a precision among {', '.join(PRECISIONS)}, got {precision!r}")
    name = default_runtime(path) if runtime is None else runtime
    check_runtime(name, path)
    graph = Graph(path)
    if RUNTIMES[name].suffixes and path.suffix.lower() not in GRAPH_SUFFIXES:
        graph = export_in_memory(path, precision)
    return RUNTIMES[name].open(graph, torch.device(device), precision, threads)


def check_runtime(name: str, path: Path) -> None:
    """Check that a runtime exists and can read a file.

    Raises:
        UserError: It does not, or reads files of other kinds.
    """
    if name not in RUNTIMES:
        raise UserError(
            f"expected a runtime among {', '.join(RUNTIMES)}, got {name!r}{nearest(name, RUNTIMES)}"
        )
    suffix = path.suffix.lower()
    if suffix in GRAPH_SUFFIXES and suffix not in RUNTIMES[name].suffixes:
        readers = [other for other, runtime in RUNTIMES.items() if suffix in runtime.suffixes]
        raise UserError(
            f"{path}: {name} does not read {suffix} files; expected --runtime {', '.join(readers)}"
        )


def default_runtime(path: str | Path) -> str:
    """Return the name of the runtime for a file, by its suffix."""
    suffix = Path(path).suffix.lower()
    for name, runtime in RUNTIMES.items():
        if suffix in runtime.suffixes:
            return name
    return "torch"


def usable_device(name: str, device: torch.device) -> torch.device:
    """Return the device where a runtime can compute on it, else the CPU.

    Args:
        name: Key of `RUNTIMES`.
        device: Where other runtimes compute.
    """
    cpu = torch.device("cpu")
    if device.type not in RUNTIMES[name].devices:
        return cpu
    if name == "onnxruntime" and device.type == "cuda":
        from dhp_sr.deploy.onnx_runner import CUDA_PROVIDER, require_onnx

        # The package for processors is the one that most machines have.
        return device if CUDA_PROVIDER in require_onnx().get_available_providers() else cpu
    return device


def export_in_memory(path: Path, precision: str | None = None) -> Graph:
    """Export a file of dhp_sr for other runtimes; takes seconds, for large networks longer.

    Raises:
        UserError: A package for ONNX is missing, or the file cannot be loaded or exported.
    """
    from dhp_sr.deploy.onnx_export import network_to_graph

    return network_to_graph(path, half=precision == "fp16")
