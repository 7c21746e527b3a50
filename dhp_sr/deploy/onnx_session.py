"""ONNX files ready to run, after a look at what they would make onnxruntime do."""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from dhp_sr.deploy.onnx_check import check_onnx
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.utils.errors import UserError

if TYPE_CHECKING:
    import onnxruntime


def require_onnx() -> ModuleType:
    """Return onnxruntime.

    Raises:
        UserError: it, onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX files need the package {error.name}, which is not installed: pip install 'dhp_sr[onnx]'"
        ) from error
    return onnxruntime


def open_onnx(path: str | Path, threads: int = 1) -> "onnxruntime.InferenceSession":
    """Return an ONNX file ready to run on the CPU.

    Args:
        path: the file.
        threads: how many to compute with.

    Raises:
        UserError: onnxruntime is missing.
        ModelFileError: the file is damaged, refers to other files, declares tensors that it does not hold or would
            need too much memory, or onnxruntime cannot run it.
    """
    runtime = require_onnx()
    check_onnx(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what matters comes as an error
    try:
        # without the fallback, which prints to stdout and tries the same again
        return runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's own classes have no common base
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ModelFileError(
            f"{path}: expected a file that onnxruntime can run, found: {reason[0][:300]}"
        ) from error
