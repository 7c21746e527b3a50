"""ONNX models run by onnxruntime: files of dhp_sr or of others, and exports in memory."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray

from dhp_sr.deploy.graph_info import Graph, describe_graph
from dhp_sr.deploy.onnx_check import check_onnx, nodes_and_constants, parse_onnx
from dhp_sr.deploy.runner import MAX_BATCH, Images, Runner
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.utils.errors import UserError

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"

_PROVIDER_OPTIONS = {CUDA_PROVIDER: {"use_tf32": "0"}}
"""Provider -> its settings. TF32, the default, rounds factors to 10 bits: results would differ from
PyTorch's by more than fp32 explains."""


def require_onnx() -> ModuleType:
    """Import onnxruntime.

    Raises:
        UserError: It, onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX files need the package {error.name}, which is not installed: "
            "pip install 'dhp_sr[onnx]'"
        ) from error
    return onnxruntime


def choose_providers(runtime: str, device: torch.device, available: Sequence[str]) -> list[str]:
    """Return the execution providers of onnxruntime, the preferred first.

    A graphics card's provider leaves operators that it does not know to the next in the list.

    Args:
        runtime: `onnxruntime`, or `tensorrt`.
        device: Where to compute.
        available: Providers that the installed onnxruntime was built with.

    Raises:
        UserError: The installed onnxruntime has no provider for this.
    """
    wanted = [CPU_PROVIDER]
    if device.type == "cuda":
        wanted = [CUDA_PROVIDER, CPU_PROVIDER]
    if runtime == "tensorrt":
        if device.type != "cuda":
            raise UserError(f"--runtime tensorrt needs --device cuda, got {device}")
        wanted = [TENSORRT_PROVIDER, CUDA_PROVIDER, CPU_PROVIDER]
    missing = [provider for provider in wanted if provider not in available]
    if missing:
        raise UserError(
            f"{runtime} on {device} needs {', '.join(missing)}, which the installed onnxruntime "
            "does not have: pip install onnxruntime-gpu, or use --device cpu"
        )
    return wanted


def open_session(
    source: str | Path | bytes, threads: int = 1, providers: Sequence[str] = (CPU_PROVIDER,)
) -> "onnxruntime.InferenceSession":
    """Load an ONNX model into onnxruntime; a file is checked first.

    Args:
        source: A file, or a model of our own exporter.
        threads: CPU threads to compute with.
        providers: Execution providers, from `choose_providers`.

    Raises:
        UserError: onnxruntime is missing, or cannot load a provider.
        ModelFileError: The file is damaged, refers to other files, declares tensors that it does
            not hold or would need too much memory, or onnxruntime cannot run it.
    """
    runtime = require_onnx()
    # Before onnxruntime, which opens other files that a model names and computes its constants.
    if not isinstance(source, bytes):
        check_onnx(source)
        source = str(source)
    options = runtime.SessionOptions()
    # Threads inside an operator; side by side, operators of a chain only wait for each other.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal alone: errors arrive as exceptions
    try:
        # The fallback prints to stdout and tries the same provider again.
        session = runtime.InferenceSession(
            source,
            options,
            providers=list(providers),
            provider_options=[_PROVIDER_OPTIONS.get(name, {}) for name in providers],
            enable_fallback=0,
        )
    except Exception as error:
        # onnxruntime's exceptions have no common base class.
        name = "the exported model" if isinstance(source, bytes) else source
        raise ModelFileError(
            f"{name}: expected a file that onnxruntime can run, got: {first_line(error)[:300]}"
        ) from error
    check_providers(session.get_providers(), providers)
    return session


def check_providers(used: Sequence[str], wanted: Sequence[str]) -> None:
    """Check that a session has the execution providers that it was to have.

    onnxruntime-gpu lists the providers that it was built with. One whose libraries are missing
    from the machine is left out when the session is made, and the CPU computes without a word.

    Raises:
        UserError: One was left out.
    """
    missing = [provider for provider in wanted if provider not in used]
    if missing:
        libraries = "TensorRT" if TENSORRT_PROVIDER in missing else "CUDA and cuDNN"
        raise UserError(
            f"onnxruntime: {', '.join(missing)} could not be loaded, and {used[0]} would compute "
            f"instead; install {libraries} in the versions that onnxruntime-gpu needs, or use "
            "--device cpu"
        )


def first_line(error: Exception) -> str:
    """Return the first line of an exception's text, or its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True)
class _Input:
    """The input of a session."""

    name: str
    dtype: type
    channels: int | None
    """None: the file leaves it free."""
    is_single: bool
    """Whether the file has a fixed batch of a single image."""


@final
class OnnxRunner(Runner):
    """An ONNX model from an image to an image or to scores of classes.

    Args:
        graph: A file, of dhp_sr or of any other program, or an export in memory.
        device: The CPU, or a CUDA device where onnxruntime has a provider for it.
        precision: `fp32`, or that of the file.
        threads: Threads of the CPU; None: as many as PyTorch uses.
        runtime: `onnxruntime` or `tensorrt`, see `choose_providers`.

    Raises:
        UserError: The file does not suit the arguments, or is no such network.
    """

    def __init__(
        self,
        graph: Graph,
        device: torch.device,
        precision: str,
        threads: int | None,
        runtime: str = "onnxruntime",
    ) -> None:
        path = graph.path
        self.runtime = runtime
        try:
            providers = choose_providers(runtime, device, require_onnx().get_available_providers())
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        if device.type != "cpu":
            self.max_batch = MAX_BATCH
            self.device_type = device.type
        source = path if graph.content is None else graph.content
        self._session = open_session(source, threads or torch.get_num_threads(), providers)
        self._input = read_input(self._session, path)
        self.is_single = self._input.is_single
        if precision != "fp32":
            self._check_precision(precision, graph)
        info = graph.info
        if info is None:
            metadata = self._session.get_modelmeta().custom_metadata_map
            info = describe_graph(self.compute, metadata, self._input.channels, path)
        super().__init__(path, info)

    def _check_precision(self, precision: str, graph: Graph) -> None:
        """Check that a graph is of a precision, which is part of it: it cannot be run in another.

        Raises:
            UserError: It is of another one.
        """
        own_precision = "fp16"
        if self._input.dtype is not np.float16:
            content = graph.content or graph.path.read_bytes()
            own_precision = weights_precision(parse_onnx(content))
        if precision != own_precision:
            raise UserError(
                f"{graph.path}: computes in {own_precision}, --precision {precision} has no "
                "effect; export another file"
            )

    def compute(self, images: Images) -> Images:
        """Run the graph."""
        x: NDArray[np.floating] = np.ascontiguousarray(images, dtype=self._input.dtype)
        try:
            (result,) = self._session.run(None, {self._input.name: x})
        except Exception as error:
            # onnxruntime's exceptions have no common base class.
            raise UserError(f"onnxruntime: {error}") from error
        return np.asarray(result, dtype=np.float32)


def weights_precision(model: "onnx.ModelProto") -> str:
    """Return the precision that most of the stored numbers are in: `fp32`, `fp16`, `bf16`, `int8`.

    Files of other programs often compute in half precision between an input and an output in fp32.
    """
    return _count_numbers(model).most_common(1)[0][0]


def coarsest_precision(model: "onnx.ModelProto") -> str:
    """Return the coarsest precision of any of the stored numbers, however few they are.

    It decides how far two programs may differ that compute the same model.
    """
    counts = _count_numbers(model)
    return next(name for name in ("int8", "bf16", "fp16", "fp32") if name in counts)


def _count_numbers(model: "onnx.ModelProto") -> Counter[str]:
    """Count the stored numbers of each precision; that of fp32 is always there."""
    import onnx

    names: dict[int, str] = {
        onnx.TensorProto.FLOAT: "fp32",
        onnx.TensorProto.FLOAT16: "fp16",
        onnx.TensorProto.BFLOAT16: "bf16",
        onnx.TensorProto.INT8: "int8",
        onnx.TensorProto.UINT8: "int8",
    }
    counts = Counter(fp32=0)
    for item in nodes_and_constants(model):
        # Sizes and indices are of other types.
        if isinstance(item, onnx.TensorProto) and item.data_type in names:
            counts[names[item.data_type]] += math.prod(item.dims)
    return counts


def read_input(session: "onnxruntime.InferenceSession", path: Path) -> _Input:
    """Return the input of a session that maps an image to a single result."""
    inputs = session.get_inputs()
    outputs = session.get_outputs()
    single = len(inputs) == 1 and len(outputs) == 1
    if not single or len(inputs[0].shape) != 4 or inputs[0].type not in _DTYPES:
        listing = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in inputs)
        raise UserError(
            f"{path}: expected an image (N, C, H, W) of floating-point numbers in and a single "
            f"result out, got {len(outputs)} out and in: {listing}"
        )
    shape = inputs[0].shape
    if any(isinstance(side, int) for side in shape[2:]):
        raise UserError(
            f"{path}: expected a free height and width, got an input of {shape}; export it again"
        )
    channels = shape[1] if isinstance(shape[1], int) else None
    return _Input(inputs[0].name, _DTYPES[inputs[0].type], channels, is_single=shape[0] == 1)
