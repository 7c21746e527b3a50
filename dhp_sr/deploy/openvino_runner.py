"""Models run by OpenVINO: its own files, ONNX files, and exports in memory."""

from pathlib import Path
from types import ModuleType
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from dhp_sr.deploy.graph_info import Graph, describe_graph
from dhp_sr.deploy.onnx_check import check_onnx
from dhp_sr.deploy.runner import Images, Runner
from dhp_sr.deploy.safetensors_io import ModelFileError, check_is_file
from dhp_sr.utils.errors import UserError

METADATA_SECTION = "dhp_sr"
"""Section of a file's runtime information that holds the texts of `onnx_metadata`."""

_DTYPES = {"f32": np.float32, "f16": np.float16}
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Precision on the command line -> OpenVINO's name of it."""

_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}


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


def compile_model(model: Any, device: str, precision: str, threads: int) -> Any:
    """Compile a model for low latency and return a request that computes it.

    Args:
        model: `openvino.Model`.
        device: Name of an OpenVINO device: `CPU`, `GPU`, `NPU`.
        precision: `fp32`, `bf16` or `fp16`, of what the model does not fix: int8 stays int8.
        threads: Of the CPU.

    Raises:
        UserError: The device is not there, or has no instructions for the precision.
    """
    core = require_openvino().Core()
    # GPU.0 and GPU.1 where there are two of a kind.
    if device.partition(".")[0] not in {name.partition(".")[0] for name in core.available_devices}:
        raise UserError(
            f"OpenVINO: expected a device among {', '.join(core.available_devices)}, got {device}"
        )
    if _CAPABILITIES[precision] not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        raise UserError(
            f"OpenVINO: the {device} of this machine has no instructions for --precision "
            f"{precision}; use fp32"
        )
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Stated: where the processor has it, OpenVINO takes bf16 without being asked.
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
    }
    if device == "CPU":
        settings |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    return core.compile_model(model, device, settings).create_infer_request()


def read_openvino(graph: Graph) -> Any:
    """Read a model into OpenVINO without running it.

    Raises:
        ModelFileError: The file is damaged, or of a kind that OpenVINO cannot read.
    """
    core = require_openvino().Core()
    path = graph.path
    if graph.content is not None:
        return core.read_model(graph.content)
    check_is_file(path)
    if path.suffix.lower() == ".onnx":
        check_onnx(path)
    elif not path.with_suffix(".bin").is_file():
        raise ModelFileError(f"{path}: expected the file of weights {path.stem}.bin beside it")
    try:
        return core.read_model(path)
    except Exception as error:
        # Errors of the C++ library, a page long, the reason in the last line.
        reason = str(error).strip().splitlines()[-1]
        raise ModelFileError(
            f"{path}: expected a file that OpenVINO can read, got: {reason[:300]}"
        ) from error


@final
class OpenVinoRunner(Runner):
    """A model from an image to an image or to scores of classes, run by OpenVINO.

    Args:
        graph: An `.xml` or `.onnx` file, or an export in memory.
        device: Must be the CPU; graphics cards of other makers are named by `openvino_device`.
        precision: `fp32`; `bf16` or `fp16` where the device has instructions for it.
        threads: Of the CPU; None: as many as PyTorch uses.
        openvino_device: `CPU`, or the name of another OpenVINO device.

    Raises:
        UserError: The file does not suit the arguments, or is no such network.
    """

    def __init__(
        self,
        graph: Graph,
        device: torch.device,
        precision: str,
        threads: int | None,
        openvino_device: str = "CPU",
    ) -> None:
        path = graph.path
        self.runtime = "openvino"
        if openvino_device != "CPU":
            self.runtime = f"openvino-{openvino_device.lower()}"
        if device.type != "cpu":
            raise UserError(f"{path}: OpenVINO does not compute on {device}; use --device cpu")
        model = read_openvino(graph)
        self._dtype, channels = read_input(model, path)
        self._request = compile_model(
            model, openvino_device, precision, threads or torch.get_num_threads()
        )
        info = graph.info
        if info is None:
            info = describe_graph(self.compute, read_metadata(model), channels, path)
        super().__init__(path, info)

    def compute(self, images: Images) -> Images:
        """Run the graph."""
        x: NDArray[Any] = np.ascontiguousarray(images, dtype=self._dtype)
        try:
            results = self._request.infer({0: x})
        except Exception as error:
            # Errors of the C++ library have no common base class.
            raise UserError(f"OpenVINO: {error}") from error
        # A copy: the request's next call writes into the same memory.
        return np.array(results[0], dtype=np.float32)


def read_metadata(model: Any) -> dict[str, str]:
    """Return the texts that a model carries: ours in its own section, or those of an ONNX file."""
    for section in (METADATA_SECTION, "framework"):
        if model.has_rt_info([section]):
            values = model.get_rt_info([section]).value
            return {key: str(getattr(value, "value", value)) for key, value in values.items()}
    return {}


def read_input(model: Any, path: Path) -> tuple[type, int | None]:
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
