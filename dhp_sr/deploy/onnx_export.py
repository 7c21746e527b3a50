"""Export to a single ONNX file with free batch, height and width, compared with PyTorch."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dhp_sr.archs import EDSR, UNet
from dhp_sr.deploy.graph_info import Graph
from dhp_sr.deploy.model_file import load_model
from dhp_sr.deploy.model_info import info_of, traced_shape
from dhp_sr.deploy.onnx_check import write_with_checksum
from dhp_sr.deploy.onnx_metadata import pack_metadata
from dhp_sr.deploy.onnx_runner import open_session, require_onnx
from dhp_sr.deploy.pt2_export import (
    check_example_shape,
    dynamic_axes,
    example_image,
    quiet_exporters,
)
from dhp_sr.deploy.quantize import Int8Options, Quantized, Recipe, quantize
from dhp_sr.deploy.quantizers import quantize_onnx
from dhp_sr.deploy.runner import Images, with_tiles
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

if TYPE_CHECKING:
    import onnx

OPSETS = (17, 18, 19, 20)
"""Versions of ONNX's operators that can be written."""

OPSET = 20
INPUT = "input"
OUTPUT = "output"

_LOWERED_OPSET = 17
"""The exporter writes opset 18 and later; this is the only older one that is offered."""

_TEMPORARY_DOMAIN = "aside"
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
_MIN_HALF = 6e-8
_MAX_HALF = 65504.0
"""Smallest and largest positive number of fp16."""


def export_onnx(
    network: nn.Module,
    path: str | Path,
    example_shape: Sequence[int],
    *,
    size_multiple: int = 1,
    opset: int = OPSET,
    half: bool = False,
    int8: Int8Options | None = None,
    facts: Mapping[str, Any] | None = None,
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
    original = copy.deepcopy(network).cpu().float().eval()

    def convert(candidate: nn.Module) -> Any:
        return convert_to_onnx(simplify(candidate), example_shape, size_multiple, opset)

    note = ""
    if int8 is not None:
        quantized = _quantize(original, int8, convert)
        model = quantized.model
        note = quantized.label
    else:
        model = convert(network)
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
            return replace(compare(original, run, shapes, limit, make_input), note=note)
        except UserError as error:
            raise UserError(f"{error}; {_hint(half, int8 is not None)}") from error


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


def convert_to_onnx(
    network: nn.Module, shape: Sequence[int], size_multiple: int, opset: int
) -> "onnx.ModelProto":
    """Trace a network into an ONNX model of the given opset.

    Raises:
        UserError: It has no ONNX form, or none in this opset.
    """
    name = type(network).__name__
    with quiet_exporters(), _muted_loggers("torch.onnx", "onnxscript", "onnx_ir"):
        try:
            program = torch.onnx.export(
                network,
                (example_image(network, shape),),
                dynamo=True,  # the exporter on top of torch.export; the other is deprecated
                external_data=False,
                opset_version=opset,
                dynamic_shapes=(dynamic_axes(network, size_multiple),),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            lines = str(error).strip().splitlines() or [""]
            raise UserError(f"{name} has no ONNX form: {lines[-1]}") from error
    assert program is not None, "torch.onnx.export returns a program where dynamo is set"
    model = program.model_proto
    # The exporter keeps 18 where ONNX refuses the step down to 17.
    if _opset_of(model) > opset == _LOWERED_OPSET:
        model = lower_opset(model, opset)
    if _opset_of(model) != opset:
        raise UserError(
            f"{name} has no form in opset {opset}: the exporter kept {_opset_of(model)}; take that"
        )
    return remove_source_paths(model)


def _opset_of(model: Any) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain == "")


def lower_opset(model: Any, opset: int) -> Any:
    """Convert a model to an older opset.

    ONNX has no rules for a Pad without axes, which means the same in both, nor for reductions,
    whose axes opset 18 made an input. So those nodes are moved to another domain, which the
    converter leaves alone, and back.
    """
    from onnx import helper, version_converter

    for node in model.graph.node:
        plain_pad = node.op_type == "Pad" and len(node.input) < 4
        if plain_pad or _axes_to_attribute(node, model.graph):
            node.domain = _TEMPORARY_DOMAIN
    model.opset_import.append(helper.make_opsetid(_TEMPORARY_DOMAIN, 1))
    try:
        lowered = version_converter.convert_version(model, opset)
    except RuntimeError:
        # Its message is a line of its source code. The caller compares the opset and reports.
        lowered = model
    for node in lowered.graph.node:
        if node.domain == _TEMPORARY_DOMAIN:
            node.domain = ""
    domains = [entry for entry in lowered.opset_import if entry.domain != _TEMPORARY_DOMAIN]
    del lowered.opset_import[:]
    lowered.opset_import.extend(domains)
    return lowered


def _axes_to_attribute(node: Any, graph: Any) -> bool:
    """Write a reduction as opset 17 has it; return whether that was possible.

    ReduceSum already had its axes as an input before.
    """
    from onnx import helper, numpy_helper

    if node.op_type not in _REDUCTIONS or len(node.input) < 2:
        return False
    for constant in graph.initializer:
        if constant.name == node.input[1]:
            axes = numpy_helper.to_array(constant).tolist()
            del node.input[1:]
            node.attribute.append(helper.make_attribute("axes", axes))
            kept = [entry for entry in node.attribute if entry.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
            return True
    # Axes that are computed have no form as an attribute.
    return False


def remove_source_paths(model: Any) -> Any:
    """Remove the exporter's notes about the source code of every node.

    They hold paths of this machine, and would make the bytes depend on it.
    """
    graph = model.graph
    for item in [model, graph, *graph.node, *graph.value_info, *graph.initializer]:
        del item.metadata_props[:]
    for item in [*graph.node, *graph.input, *graph.output]:
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    return model


def convert_to_half(model: Any) -> Any:
    """Convert weights, computation, input and output of a model to fp16."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with quiet_exporters():
        half = convert_float_to_float16(model, min_positive_val=_MIN_HALF, max_finite_val=_MAX_HALF)
    # The converter leaves operators such as Resize in float32, between casts, but notes fp16 as
    # the type of their results. Without the notes, programs infer the types themselves.
    del half.graph.value_info[:]
    # It also repeats the cast of a constant that several such operators share, under one name,
    # and leaves the nodes out of order.
    unique = {node.output[0]: node for node in half.graph.node}
    del half.graph.node[:]
    half.graph.node.extend(unique.values())
    OnnxModel(half).topological_sort()
    return half


def _quantize(
    original: nn.Module, int8: Int8Options, convert: Callable[[nn.Module], Any]
) -> Quantized:
    def prepare(candidate: nn.Module) -> Callable[[Recipe], Any]:
        content = convert(candidate).SerializeToString()
        return lambda recipe: quantize_onnx(content, int8.images, recipe)

    return quantize(original, int8, prepare, _array_function)


def _run_function(session: Any, half: bool) -> Callable[[Tensor], Tensor]:
    dtype = np.float16 if half else np.float32

    def run(x: Tensor) -> Tensor:
        (output,) = session.run([OUTPUT], {INPUT: x.numpy().astype(dtype)})
        return torch.from_numpy(output)

    return run


def _array_function(model: Any) -> Callable[[Images], Images]:
    session = open_session(model.SerializeToString())
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


@contextmanager
def _muted_loggers(*names: str) -> Iterator[None]:
    # convert_to_onnx checks what the exporter would report here.
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def simplify(network: nn.Module) -> nn.Module:
    """Return a float32 copy on the CPU that other runtimes execute faster, with equal results.

    A PReLU with a single parameter becomes a leaky ReLU, which onnxruntime merges into the
    convolution before it (a PReLU stays a separate, slow operator; SRResNet takes twice as long
    with it). EDSR's range and output mean go into its biases. A UNet, which pads and crops, states
    its output's size through the input's, so that programs that infer shapes find it.

    Args:
        network: Maps an image tensor to an image; left as it was.
    """
    copied = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            # Shared modules are replaced under each of their names.
            if isinstance(child, nn.PReLU) and child.num_parameters == 1:
                setattr(parent, name, nn.LeakyReLU(float(child.weight)))
    if type(copied) is EDSR:
        return _FoldedEDSR(copied).eval()
    if type(copied) is UNet:
        return _SizedUNet(copied).eval()
    return copied


class _SizedUNet(nn.Module):
    """UNet whose result is given the size that it has."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Compute `UNet.forward`."""
        # -1 rather than the channels: the exporter drops a reshape that changes nothing.
        return self.network(x).reshape(x.shape[0], -1, *x.shape[2:])


class _FoldedEDSR(nn.Module):
    """EDSR whose range and output mean lie in the biases.

    Convolutions, ReLU, sums and shuffles are homogeneous: biases divided by the range do what an
    image multiplied by it does, and the features stay small, which fp16 needs. The input's mean
    stays a subtraction: zeros are padded after it, so in the first bias it would change the
    border.
    """

    def __init__(self, network: EDSR) -> None:
        super().__init__()
        self.network = network
        self.has_mean = bool(network.mean.any())
        with torch.no_grad():
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                    layer.bias /= network.img_range
            output_bias = network.conv_last.bias
            assert output_bias is not None
            output_bias += network.mean.flatten()

    def forward(self, x: Tensor) -> Tensor:
        """Compute `EDSR.forward` without its scaling."""
        edsr = self.network
        features = edsr.conv_first(x - edsr.mean if self.has_mean else x)
        features = features + edsr.conv_after_body(edsr.body(features))
        return edsr.conv_last(edsr.upsample(features))
