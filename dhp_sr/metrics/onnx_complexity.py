"""Multiply-adds and parameters of an ONNX file, counted in its graph."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dhp_sr.metrics.complexity import Complexity
from dhp_sr.utils.errors import UserError

if TYPE_CHECKING:
    import onnx

Shapes = dict[str, tuple[int, ...]]
"""Name of a tensor -> its size."""

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")
WITH_PARAMETERS = (
    *CONVOLUTIONS,
    *PRODUCTS,
    "PRelu",
    "InstanceNormalization",
    "LayerNormalization",
)
"""Operators whose inputs, from the second on, are parameters if the file stores them."""

UNCOUNTED = (
    "Attention",
    "ConvInteger",
    "DFT",
    "DeformConv",
    "Einsum",
    "GRU",
    "GridSample",
    "If",
    "LSTM",
    "Loop",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
    "Scan",
)
"""Operators that multiply, or whose branches and bodies may, and that are not counted."""


def onnx_complexity(path: str | Path, input_shape: Sequence[int]) -> Complexity | None:
    """Count the cost of one forward pass from the sizes that ONNX infers; nothing is computed.

    The file is counted as it is: where an exporter merged normalization into convolutions, its
    parameters are gone; where it moved a pixel shuffle behind a convolution, zeros were added.

    Args:
        path: ONNX file.
        input_shape: (N, C, H, W); the counts are for the whole batch.

    Returns:
        The counts, or None where neither onnx nor onnxruntime can tell the size of a layer.

    Raises:
        UserError: The package onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        hint = "which is not installed: pip install 'dhp_sr[onnx]'"
        raise UserError(f"counting an ONNX file needs onnx, {hint}") from error
    model = onnx.load(path)
    axes = _image(model.graph).type.tensor_type.shape.dim
    for axis, length in zip(axes, input_shape, strict=True):
        axis.dim_value = length
    # Sizes that were inferred for another input, or stated as symbols, would contradict this one.
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:
        # Of any class, from C++, for graphs that runtimes compute all the same.
        return None

    counted = [node for node in model.graph.node if node.op_type in (*CONVOLUTIONS, *PRODUCTS)]
    required: set[str] = set()
    for node in counted:
        required.update(node.input[:2])
        required.add(node.output[0])
    shapes = _known_shapes(inferred)
    # The slower way, only where onnx gives up.
    if not required <= shapes.keys():
        shapes |= _symbolic_shapes(model)
    if not required <= shapes.keys():
        return None

    macs = activations = convs = 0
    for node in counted:
        macs += _macs(node, shapes)
        if node.op_type in CONVOLUTIONS:
            activations += math.prod(shapes[node.output[0]])
            convs += 1
    uncounted = set()
    for node in model.graph.node:
        # Operators of other domains, such as com.microsoft, may compute anything.
        if node.op_type in UNCOUNTED or node.domain not in ("", "ai.onnx"):
            uncounted.add(f"{node.domain or 'onnx'}.{node.op_type}")
    params = _params(inferred)
    return Complexity(macs, params, activations, convs, tuple(sorted(uncounted)))


def _image(graph: "onnx.GraphProto") -> "onnx.ValueInfoProto":
    """Return the input that is no weight: older files list all that they store among the inputs."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    return inputs[0]


def _known_shapes(graph: "onnx.GraphProto") -> Shapes:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        axes = value.type.tensor_type.shape.dim
        # An axis without a value is a symbol such as "batch".
        if axes and all(axis.HasField("dim_value") for axis in axes):
            shapes[value.name] = tuple(axis.dim_value for axis in axes)
    return shapes


def _symbolic_shapes(model: "onnx.ModelProto") -> Shapes:
    """Sizes by onnxruntime, which also follows those that the graph computes, such as padding."""
    try:
        from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

        return _known_shapes(SymbolicShapeInference.infer_shapes(model, auto_merge=True).graph)
    except Exception:
        # Not installed, or an operator is unknown to the tool, which raises any class then.
        return {}


def _macs(node: "onnx.NodeProto", shapes: Shapes) -> int:
    first = shapes[node.input[0]]
    weight = shapes[node.input[1]]
    result = shapes[node.output[0]]
    if node.op_type == "Conv":  # weight (out, in / groups, *kernel)
        return math.prod(result) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        # weight (in, out / groups, *kernel), used once for every element of the input
        return math.prod(first) * math.prod(weight[1:])
    is_transposed = any(item.name == "transA" and item.i for item in node.attribute)
    contracted = first[-2] if is_transposed else first[-1]
    return math.prod(result) * contracted


def _params(graph: "onnx.GraphProto") -> int:
    """Elements of stored tensors that are parameters: not constants of reshapes and the like."""
    names: set[str] = set()
    products = set()
    for node in graph.node:
        if node.op_type in WITH_PARAMETERS:
            names.update(node.input[1:])
        if node.op_type == "BatchNormalization":
            names.update(node.input[1:3])  # the other two are buffers
        if node.op_type == "MatMul":
            products.add(node.output[0])
    # The bias of a linear layer is added after its MatMul.
    for node in graph.node:
        if node.op_type == "Add" and products.intersection(node.input):
            names.update(node.input)
    # Weights in int8 are stored before the operator that makes numbers of them.
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] in names:
            names.add(node.input[0])
    elements = 0
    for tensor in graph.initializer:
        if tensor.name in names:
            elements += math.prod(tensor.dims)
    return elements
