"""Models run by OpenVINO: its own files, ONNX files, and exports in memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from dhp_sr.deploy.graph_info import Graph, describe_graph
from dhp_sr.deploy.onnx_check import MAX_VALUES, check_onnx
from dhp_sr.deploy.runner import Images, Runner
from dhp_sr.deploy.safetensors_io import ModelFileError, check_is_file
from dhp_sr.utils.errors import UserError

if TYPE_CHECKING:
    import openvino

METADATA_SECTION = "dhp_sr"
"""Section of a file's runtime information that holds the texts of `onnx_metadata`."""

_DTYPES = {"f32": np.float32, "f16": np.float16}
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Precision on the command line -> OpenVINO's name of it."""

_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}

FIXED_SHAPES = 4
"""Shapes that a runner compiles its model for, each within a second."""

FIXED_PIXELS = 2**16
"""Pixels of the images of such a shape together, at most. Finding the shapes of all features takes
up to a millisecond for every input: a seventh of RLFN's time at 64 x 64, nothing at 256 x 256."""

FIXED_AT_USE = 2
"""A shape that comes for the second time will come again, as tiles and frames do."""


def require_openvino() -> ModuleType:
    """Import openvino.

    Raises:
        UserError: It is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            "OpenVINO needs the package openvino, which is not installed: "
            "pip install 'dhp_sr[openvino]'"
        ) from error
    return openvino


def compile_model(
    model: "openvino.Model", device: str, precision: str, threads: int
) -> "openvino.InferRequest":
    """Compile a model for low latency and return a request that computes it.

    Args:
        model: Of free or fixed sizes.
        device: Name of an OpenVINO device: `CPU`, `GPU`, `NPU`.
        precision: `fp32`, `bf16` or `fp16`, of what the model does not fix: int8 stays int8.
        threads: Threads of the CPU.

    Raises:
        UserError: The device is not there, lacks the precision, or cannot compute the model.
    """
    core = require_openvino().Core()
    # GPU.0 and GPU.1 where there are two of a kind.
    if device.partition(".")[0] not in {name.partition(".")[0] for name in core.available_devices}:
        raise UserError(
            f"OpenVINO: expected a device among {', '.join(core.available_devices)}, got {device}"
        )
    if _CAPABILITIES[precision] not in capabilities(device):
        raise UserError(
            f"OpenVINO: the {device} of this machine has no instructions for --precision "
            f"{precision}; use fp32"
        )
    settings: dict[str, str | int] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Stated: where the processor has it, OpenVINO takes bf16 without being asked.
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
    }
    if device == "CPU":
        settings |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    try:
        return core.compile_model(model, device, settings).create_infer_request()
    except Exception as error:  # such as an operation that the device does not know
        text = f"OpenVINO: cannot compile the model for {device}: {_last_line(error)}"
        raise UserError(text) from error


def _last_line(error: Exception) -> str:
    """Return the reason in an error of the C++ library, which is a page long."""
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__


def inner_precision(metadata: Mapping[str, str], device: str = "CPU") -> str:
    """Return the precision of what a file does not fix, unless the user names one.

    In an int8 file that is what stays between its layers in int8: bf16, where the device has
    instructions for it, is faster and loses little beside int8.

    Args:
        metadata: Texts of the file.
        device: Name of an OpenVINO device.
    """
    if metadata.get("precision") != "int8":
        return "fp32"
    return "bf16" if _CAPABILITIES["bf16"] in capabilities(device) else "fp32"


def capabilities(device: str) -> Sequence[str]:
    """Return OpenVINO's names of what a device has instructions for."""
    names: Sequence[str] = (
        require_openvino().Core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    )
    return names


def read_openvino(graph: Graph) -> "openvino.Model":
    """Read a model into OpenVINO without running it.

    Raises:
        ModelFileError: The file is damaged, of a kind that OpenVINO cannot read, or would need too
            much memory.
    """
    core = require_openvino().Core()
    path = graph.path
    if graph.content is not None:
        return _read(core, graph.content, f"{path}, exported")
    check_is_file(path)
    if path.suffix.lower() == ".onnx":
        check_onnx(path)
    elif not path.with_suffix(".bin").is_file():
        raise ModelFileError(f"{path}: expected the file of weights {path.stem}.bin beside it")
    model = _read(core, path, str(path))
    check_sizes(model, path)
    return model


def _read(core: "openvino.Core", source: Path | bytes, name: str) -> "openvino.Model":
    try:
        return core.read_model(source)
    except Exception as error:
        text = f"{name}: expected a model that OpenVINO can read, got: {_last_line(error)}"
        raise ModelFileError(text) from error


def check_sizes(model: "openvino.Model", path: Path) -> None:
    """Check that no value whose size is independent of the input is huge, as of ONNX files.

    OpenVINO computes such values when it compiles a model.

    Raises:
        ModelFileError: There is one.
    """
    waiting = [model]
    while waiting:
        for operation in waiting.pop().get_ops():
            waiting += _bodies(operation)
            for output in operation.outputs():
                shape = output.get_partial_shape()
                num_values = prod(shape.to_shape()) if shape.is_static else 0
                if num_values > MAX_VALUES:
                    raise ModelFileError(
                        f"{path}: {operation.get_friendly_name()[:80]!r} would hold {num_values} "
                        f"values; at most {MAX_VALUES} pass"
                    )


def _bodies(operation: "openvino.Node") -> "list[openvino.Model]":
    """Return the models inside an operation: branches, or the body of a loop."""
    kind = operation.get_type_name()
    if kind == "If":
        return [operation.get_function(index) for index in range(2)]
    if kind in ("Loop", "TensorIterator"):
        return [operation.get_function()]
    return []


@final
class OpenVinoRunner(Runner):
    """A model from an image to an image or to scores of classes, run by OpenVINO.

    Args:
        graph: An `.xml` or `.onnx` file, or an export in memory.
        device: Must be the CPU; graphics cards of other makers are named by `openvino_device`.
        precision: `fp32`; `bf16` or `fp16` where the device has instructions for it; None: see
            `inner_precision`.
        threads: Threads of the CPU; None: as many as PyTorch uses.
        openvino_device: `CPU`, or the name of another OpenVINO device.

    Raises:
        UserError: The file does not suit the arguments, or is no such network.
    """

    def __init__(
        self,
        graph: Graph,
        device: torch.device,
        precision: str | None,
        threads: int | None,
        openvino_device: str = "CPU",
    ) -> None:
        path = graph.path
        self.runtime = "openvino"
        if openvino_device != "CPU":
            self.runtime = f"openvino-{openvino_device.lower()}"
        if device.type != "cpu":
            raise UserError(f"{path}: OpenVINO does not compute on {device}; use --device cpu")
        self._model = read_openvino(graph)
        self._dtype, channels = read_input(self._model, path)
        batch = self._model.inputs[0].partial_shape[0]
        self.is_single = not batch.is_dynamic and batch.get_length() == 1
        metadata = read_metadata(self._model)
        self.precision = precision or inner_precision(metadata, openvino_device)
        if precision != self.precision != "fp32":
            self.note = f"int8, the rest in {self.precision}; --precision fp32 is exact there"
        self._compile = partial(
            compile_model,
            device=openvino_device,
            precision=self.precision,
            threads=threads or torch.get_num_threads(),
        )
        self._request = self._compile(self._model)
        self._requests: dict[tuple[int, ...], openvino.InferRequest] = {}
        self._uses: Counter[tuple[int, ...]] = Counter()
        info = graph.info
        if info is None:
            info = describe_graph(self.compute, metadata, channels, path)
        # What was run to describe the graph says nothing about the images to come.
        self._uses.clear()
        super().__init__(path, info)

    def compute(self, images: Images) -> Images:
        """Run the graph."""
        x: NDArray[np.floating] = np.ascontiguousarray(images, dtype=self._dtype)
        try:
            # Shared: OpenVINO's own copies of input and results take up to 4 % of a fast network.
            request = self._request_for(x.shape)
            results = request.infer({0: x}, share_inputs=True, share_outputs=True)
        except Exception as error:
            # Errors of the C++ library have no common base class.
            raise UserError(f"OpenVINO: {error}") from error
        # A copy: the request's next call writes into the same memory.
        return np.array(results[0], dtype=np.float32)

    def _request_for(self, shape: tuple[int, ...]) -> "openvino.InferRequest":
        """Return the request for a shape, compiled for it alone if it is small and comes often."""
        self._uses[shape] += 1
        batch, _, height, width = shape
        is_small = batch * height * width <= FIXED_PIXELS
        is_frequent = self._uses[shape] == FIXED_AT_USE
        if is_small and is_frequent and len(self._requests) < FIXED_SHAPES:
            # A copy: the model keeps its free sizes.
            model = self._model.clone()
            model.reshape(list(shape))
            self._requests[shape] = self._compile(model)
        return self._requests.get(shape, self._request)


def read_metadata(model: "openvino.Model") -> dict[str, str]:
    """Return the texts that a model carries: ours in its own section, or those of an ONNX file."""
    for section in (METADATA_SECTION, "framework"):
        if model.has_rt_info([section]):
            values = model.get_rt_info([section]).value
            return {key: str(getattr(value, "value", value)) for key, value in values.items()}
    return {}


def read_input(model: "openvino.Model", path: Path) -> tuple[type, int | None]:
    """Return type and channels (None: free) of the input of an image-to-result model.

    Raises:
        UserError: The model is of another kind, or made for a fixed size.
    """
    is_image = False
    if len(model.inputs) == 1 and len(model.outputs) == 1:
        shape = model.inputs[0].partial_shape
        dtype = model.inputs[0].element_type.to_string()
        is_image = shape.rank.is_static and len(shape) == 4 and dtype in _DTYPES
    if not is_image:
        raise UserError(
            f"{path}: expected an image (N, C, H, W) of floating-point numbers in and a single "
            f"result out, got inputs {model.inputs} and outputs {model.outputs}"
        )
    if not (shape[2].is_dynamic and shape[3].is_dynamic):
        raise UserError(
            f"{path}: expected a free height and width, got an input of {shape}; export it again"
        )
    channels = None if shape[1].is_dynamic else shape[1].get_length()
    return _DTYPES[dtype], channels
