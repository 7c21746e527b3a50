"""Export to OpenVINO's files: `.xml` for the graph and `.bin` for the weights beside it."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dhp_sr.deploy.graph_info import Graph
from dhp_sr.deploy.onnx_graph import OPSET, convert_to_onnx
from dhp_sr.deploy.onnx_metadata import pack_metadata
from dhp_sr.deploy.onnx_runner import require_onnx
from dhp_sr.deploy.openvino_runner import (
    METADATA_SECTION,
    compile_model,
    inner_precision,
    read_openvino,
    require_openvino,
)
from dhp_sr.deploy.pt2_export import check_example_shape
from dhp_sr.deploy.quantize import Int8Options, Quantized, quantize
from dhp_sr.deploy.quantizers import quantize_openvino
from dhp_sr.deploy.recipes import Recipe
from dhp_sr.deploy.runner import Images
from dhp_sr.deploy.simplify import simplify
from dhp_sr.deploy.verify import (
    Agreement,
    compare,
    image_like,
    noise_image,
    tolerance_of,
    unseen_shapes,
)
from dhp_sr.utils.files import temporary_folder
from dhp_sr.utils.modules import deep_copy
from dhp_sr.utils.strict_json import Json

if TYPE_CHECKING:
    import openvino


def export_openvino(
    network: nn.Module,
    path: str | Path,
    example_shape: Sequence[int],
    *,
    size_multiple: int = 1,
    half: bool = False,
    int8: Int8Options | None = None,
    facts: Mapping[str, Json] | None = None,
    tolerance: float | None = None,
) -> Agreement:
    """Export a network for OpenVINO, with free batch, height and width.

    The written files are read again and compared with PyTorch at two sizes that they were not
    traced with. They take their names only if the results agree. int8 is measured with bf16
    between the layers in int8 where this processor has it, and compared with fp32 there, too.

    Args:
        network: Maps an image tensor (N, C, H, W) in [0, 1] to an image; left as it was.
        path: The `.xml` file.
        example_shape: (N, C, H, W) to trace with; H and W multiples of `size_multiple`.
        size_multiple: Height and width of inputs must be multiples of it.
        half: Store the weights in fp16; the device chooses the precision of the computation, and
            input and output are fp32.
        int8: Choices of a quantization; None: no int8.
        facts: The file's metadata, see `onnx_metadata.KEYS`.
        tolerance: Largest difference allowed; None: that of the precision in `TOLERANCES`.

    Raises:
        UserError: A package is missing, the network cannot be exported, the files compute
            something else, or int8 loses too much.
        OSError: The files cannot be written.
    """
    require_openvino()
    require_onnx()
    check_example_shape(example_shape, size_multiple)
    original = deep_copy(network).cpu().float().eval()
    path = Path(path)

    def convert(candidate: nn.Module) -> "openvino.Model":
        graph = convert_to_onnx(simplify(candidate), example_shape, size_multiple, OPSET)
        return read_openvino(Graph(path, graph.SerializeToString()))

    quantized = None if int8 is None else _quantize(original, int8, convert)
    model = convert(network) if quantized is None else quantized.model
    note = "" if quantized is None else quantized.label
    for key, text in (pack_metadata(facts) if facts else {}).items():
        model.set_rt_info(text, [METADATA_SECTION, key])
    make_input = noise_image if int8 is None else image_like(int8.images[0].lq)
    limit = tolerance_of(half, tolerance, int8=int8 is not None)
    shapes = unseen_shapes(example_shape, size_multiple)

    def verify(written: Path) -> Agreement:
        # In fp32 a wrong graph shows; in the other precision, what users get.
        precisions = dict.fromkeys(["fp32", _inner_precision(int8)])
        runs = [_tensor_function(read_openvino(Graph(written)), name) for name in precisions]
        agreements = [compare(original, run, shapes, limit, make_input) for run in runs]
        return max(agreements, key=lambda agreement: agreement.largest)

    return replace(write_verified(model, path, half, verify), note=note)


def write_verified(
    model: "openvino.Model", path: Path, half: bool, verify: Callable[[Path], Agreement]
) -> Agreement:
    """Write a model's two files, which take their names only once they are verified."""
    # A folder rather than a temporary file: the graph names its weights by their common stem.
    with temporary_folder(path) as folder:
        written = folder / path.name
        try:
            require_openvino().save_model(model, written, compress_to_fp16=half)
        except RuntimeError as error:
            # what C++'s streams say of a full disk
            raise OSError(f"{path}: cannot be written ({error}); is the disk full?") from error
        agreement = verify(written)
        _give_names(written, path)
    return agreement


def _give_names(written: Path, path: Path) -> None:
    """Move a graph and its weights to their names; never does a graph lie beside other weights."""
    weights = written.with_suffix(".bin")
    for file in (weights, written):
        # The data must reach the disk before the name does.
        with open(file, "rb+") as handle:
            os.fsync(handle.fileno())
    # An earlier graph goes first. A process that is killed between the two names leaves weights
    # without a graph, which no program runs; the earlier graph would be run with the new weights.
    earlier = written.with_name(f"earlier_{path.name}")
    has_earlier = path.exists()
    if has_earlier:
        os.replace(path, earlier)
    try:
        os.replace(weights, path.with_suffix(".bin"))
    except OSError:
        if has_earlier:
            os.replace(earlier, path)
        raise
    os.replace(written, path)


def _quantize(
    original: nn.Module, int8: Int8Options, convert: "Callable[[nn.Module], openvino.Model]"
) -> "Quantized[openvino.Model]":
    def prepare(candidate: nn.Module) -> "Callable[[Recipe], openvino.Model | None]":
        model = convert(candidate)
        return lambda recipe: quantize_openvino(model, int8.images, recipe)

    precision = _inner_precision(int8)
    quantized = quantize(original, int8, prepare, lambda model: _array_function(model, precision))
    return quantized if precision == "fp32" else replace(quantized, float_name=precision)


def _inner_precision(int8: Int8Options | None) -> str:
    """Return the precision in which the file is run, see `openvino_runner.inner_precision`."""
    return inner_precision({"precision": "fp32" if int8 is None else "int8"})


def _tensor_function(model: "openvino.Model", precision: str) -> Callable[[Tensor], Tensor]:
    run = _array_function(model, precision)
    return lambda x: torch.from_numpy(run(x.numpy()))


def _array_function(model: "openvino.Model", precision: str) -> Callable[[Images], Images]:
    request = compile_model(model, "CPU", precision, torch.get_num_threads())
    # A copy: the request's next call writes into the same memory.
    return lambda x: request.infer({0: x})[0].copy()
