"""Export to a single ONNX file with free batch, height and width, compared with PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dhp_sr.deploy.graph_info import Graph
from dhp_sr.deploy.model_file import load_model
from dhp_sr.deploy.model_info import info_of, traced_shape
from dhp_sr.deploy.onnx_check import write_with_checksum
from dhp_sr.deploy.onnx_graph import (
    INPUT,
    OPSET,
    OPSETS,
    OUTPUT,
    convert_to_half,
    convert_to_onnx,
)
from dhp_sr.deploy.onnx_metadata import pack_metadata
from dhp_sr.deploy.onnx_runner import open_session, require_onnx
from dhp_sr.deploy.pt2_export import check_example_shape
from dhp_sr.deploy.quantize import Int8Options, Quantized, quantize
from dhp_sr.deploy.quantizers import quantize_onnx
from dhp_sr.deploy.recipes import Recipe
from dhp_sr.deploy.runner import Images, with_tiles
from dhp_sr.deploy.simplify import simplify
from dhp_sr.deploy.verify import (
    Agreement,
    compare,
    image_like,
    noise_image,
    tolerance_of,
    unseen_shapes,
)
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_path
from dhp_sr.utils.modules import deep_copy
from dhp_sr.utils.strict_json import Json

if TYPE_CHECKING:
    import onnx
    import onnxruntime


def export_onnx(
    network: nn.Module,
    path: str | Path,
    example_shape: Sequence[int],
    *,
    size_multiple: int = 1,
    opset: int = OPSET,
    half: bool = False,
    int8: Int8Options | None = None,
    facts: Mapping[str, Json] | None = None,
    tolerance: float | None = None,
) -> Agreement:
    """Export a network to a single ONNX file that takes any batch, height and width.

    The file is run with onnxruntime at two sizes that it was not traced with, and takes its name
    only if the results are PyTorch's. Weights lie inside it; normalization and EDSR's range are
    merged into the convolutions.

    Args:
        network: Maps an image tensor (N, C, H, W) in [0, 1] to an image; left as it was.
        path: The file; input and output are called `input` and `output`.
        example_shape: (N, C, H, W) to trace with; H and W multiples of `size_multiple`.
        size_multiple: Height and width of inputs must be multiples of it.
        opset: Version of ONNX's operators, an element of `OPSETS`.
        half: Weights, computation, input and output in fp16; programs such as chaiNNer feed the
            type that the input asks for.
        int8: Choices of a quantization; None: no int8.
        facts: The file's metadata, see `onnx_metadata.KEYS`.
        tolerance: Largest difference allowed; None: that of the precision in `TOLERANCES`.

    Raises:
        UserError: onnx, onnxruntime or onnxscript is missing; an argument does not fit; the
            network cannot be exported; the file computes something else; or int8 loses too much.
        OSError: The file cannot be written.
    """
    require_onnx()
    check_example_shape(example_shape, size_multiple)
    if opset not in OPSETS:
        raise UserError(f"expected an opset from {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    original = deep_copy(network).cpu().float().eval()

    def convert(candidate: nn.Module) -> "onnx.ModelProto":
        return convert_to_onnx(simplify(candidate), example_shape, size_multiple, opset)

    quantized = None if int8 is None else _quantize(original, int8, convert)
    model = convert(network) if quantized is None else quantized.model
    if half:
        model = convert_to_half(model)
    with atomic_path(path) as temporary:
        # The file itself is compared, not the model in memory.
        write_with_checksum(model, pack_metadata(facts) if facts else {}, temporary)
        run = _run_function(open_session(temporary), half)
        shapes = unseen_shapes(example_shape, size_multiple)
        limit = tolerance_of(half, tolerance, int8=int8 is not None)
        make_input = noise_image if int8 is None else image_like(int8.images[0].lq)
        try:
            agreement = compare(original, run, shapes, limit, make_input)
        except UserError as error:
            raise UserError(f"{error}; {_hint(half, int8 is not None)}") from error
    return agreement if quantized is None else replace(agreement, note=quantized.label)


def _hint(half: bool, int8: bool) -> str:
    if half:
        return "where values leave its range, fp16 does not suit the network"
    return "try other images" if int8 else "try another opset"


def network_to_graph(path: Path, *, half: bool = False) -> Graph:
    """Export a file of dhp_sr to an ONNX model in memory, for runtimes other than PyTorch.

    Raises:
        UserError: A package for ONNX is missing, or the file cannot be loaded or exported.
    """
    require_onnx()
    network = load_model(path).float()
    info = with_tiles(info_of(network), network)
    model = convert_to_onnx(simplify(network), traced_shape(info), info.sizes.multiple, OPSET)
    if half:
        model = convert_to_half(model)
    return Graph(path, model.SerializeToString(), info)


def _quantize(
    original: nn.Module, int8: Int8Options, convert: "Callable[[nn.Module], onnx.ModelProto]"
) -> "Quantized[onnx.ModelProto]":
    def prepare(candidate: nn.Module) -> "Callable[[Recipe], onnx.ModelProto | None]":
        content = convert(candidate).SerializeToString()
        return lambda recipe: quantize_onnx(content, int8.images, recipe)

    def make_run(model: "onnx.ModelProto") -> Callable[[Images], Images]:
        session = open_session(model.SerializeToString())
        return lambda images: session.run([OUTPUT], {INPUT: images})[0]

    return quantize(original, int8, prepare, make_run)


def _run_function(
    session: "onnxruntime.InferenceSession", half: bool
) -> Callable[[Tensor], Tensor]:
    dtype = np.float16 if half else np.float32

    def run(x: Tensor) -> Tensor:
        (output,) = session.run([OUTPUT], {INPUT: x.numpy().astype(dtype)})
        return torch.from_numpy(output)

    return run
