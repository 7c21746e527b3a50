"""A network as one ONNX file, with free batch, height and width, compared with PyTorch before it is kept."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.export import Dim

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_path

OPSET = 20
INPUT, OUTPUT = "input", "output"


def export_onnx(
    network: nn.Module,
    path: str | Path,
    example_shape: Sequence[int],
    *,
    size_multiple: int = 1,
    opset: int = OPSET,
    tolerance: float = 1e-4,
) -> float:
    """Write `network` to one ONNX file that takes any batch, height and width.

    The file is run with onnxruntime on an input of another batch, height and width than it was made with, and takes
    its name only if the result is PyTorch's. Weights lie inside it, normalisation is merged into the convolutions.

    Args:
        network: takes one image tensor (N, C, H, W) in [0, 1] and returns one; it is left as it was.
        path: the file; input and output are called `input` and `output`.
        example_shape: (N, C, H, W) of the input that the graph is traced with; H and W multiples of `size_multiple`.
        size_multiple: sides of the input must be multiples of it.
        opset: version of ONNX's operators.
        tolerance: largest difference allowed, counted as the returned one.

    Returns:
        The largest difference to PyTorch, as a fraction of the output's largest value where that is above 1.

    Raises:
        UserError: onnx, onnxruntime or onnxscript is missing; the example does not fit; the network cannot be exported;
            or the file computes something else.
        OSError: the file cannot be written.
    """
    require_onnx()
    _check_shape(example_shape, size_multiple)
    plain = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    with atomic_path(path) as temporary:
        _write(_for_export(plain), temporary, example_shape, size_multiple, opset)
        difference = _compare(plain, temporary, _other_shape(example_shape, size_multiple))
        if not difference <= tolerance:
            raise UserError(
                f"{path}: not written: expected PyTorch's output within {tolerance:g}, found a difference of "
                f"{difference:g} between onnxruntime and PyTorch; try another opset (= {opset})"
            )
    return difference


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


def open_onnx(path: str | Path, threads: int = 1) -> "onnxruntime.InferenceSession":  # noqa: F821
    """Return an ONNX file ready to run on the CPU.

    Args:
        path: the file.
        threads: how many to compute with.

    Raises:
        UserError: onnxruntime is missing, or cannot read the file.
    """
    runtime = require_onnx()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # errors come as exceptions
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes have no common base
        raise UserError(f"{path}: expected a file that onnxruntime can run, found: {error}") from error


def _check_shape(shape: Sequence[int], multiple: int) -> None:
    if len(shape) != 4 or any(side % multiple for side in shape[2:]) or min(shape) < 1:
        raise UserError(
            f"expected an example shape (N, C, H, W) with sides that are multiples of {multiple}, found {tuple(shape)}"
        )


def _for_export(network: nn.Module) -> nn.Module:
    """Return a copy in which a PReLU with one parameter is a leaky ReLU: onnxruntime merges that into a convolution.

    A PReLU stays a separate, slow operator; SRResNet takes twice as long with it.
    """
    copied = copy.deepcopy(network)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.PReLU) and child.num_parameters == 1:
                setattr(parent, name, nn.LeakyReLU(float(child.weight)))
    return copied


def _write(network: nn.Module, path: Path, shape: Sequence[int], multiple: int, opset: int) -> None:
    sides = {axis: Dim(name) if multiple == 1 else multiple * Dim(name) for axis, name in ((2, "height"), (3, "width"))}
    traced = (max(2, shape[0]), *shape[1:])  # a batch of 1 would be taken for a constant
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # of torch's exporter about torch itself
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        try:
            torch.onnx.export(
                network,
                (_image(network, traced),),
                str(path),
                dynamo=True,
                external_data=False,
                opset_version=opset,
                dynamic_shapes=({0: Dim("batch"), **sides},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[-1:] or [""]
            raise UserError(f"{path.name}: {type(network).__name__} has no ONNX form: {reason[0]}") from error


def _other_shape(shape: Sequence[int], multiple: int) -> tuple[int, ...]:
    batch, channels, height, width = shape
    return batch + 2, channels, height + 2 * multiple, width + 3 * multiple


def _compare(network: nn.Module, path: Path, shape: Sequence[int]) -> float:
    """Return the largest difference between onnxruntime and PyTorch, relative to the output where that is above 1."""
    image = _image(network, shape)
    with torch.no_grad():
        expected = network(image)
    (found,) = open_onnx(path).run([OUTPUT], {INPUT: image.numpy()})
    if tuple(found.shape) != tuple(expected.shape):
        raise UserError(f"{path.name}: expected an output of shape {tuple(expected.shape)}, found {found.shape}")
    return float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max().clamp_min(1))


def _image(network: nn.Module, shape: Sequence[int]) -> Tensor:
    """Return noise in [0, 1], the same at every call, without touching the global random state."""
    first = next(network.parameters(), torch.empty(0))
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0), dtype=first.dtype)
