"""Counts multiply-adds and parameters in the graph of an ONNX file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dhp_sr.metrics.complexity import Complexity
from dhp_sr.utils.errors import UserError

Shapes = dict[str, tuple[int, ...]]

CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")
_HOLDERS = (*CONVOLUTIONS, *PRODUCTS, "PRelu", "InstanceNormalization", "LayerNormalization")


def onnx_complexity(path: str | Path, input_shape: Sequence[int]) -> Complexity | None:
    """Count what one pass through an ONNX file costs, from the sizes that ONNX infers; nothing is computed.

    The file is counted as it is: where an exporter merged normalization into convolutions, its parameters are gone.

    Args:
        path: the file.
        input_shape: (N, C, H, W); the counts are for the whole batch.

    Returns:
        The counts, or None where ONNX cannot tell a layer's size.

    Raises:
        UserError: the package onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError(
            "counting an ONNX file needs onnx, which is not installed: pip install 'dhp_sr[onnx]'"
        ) from error
    model = onnx.load(path)
    _fix_input(model.graph, input_shape)
    nodes = [node for node in model.graph.node if node.op_type in (*CONVOLUTIONS, *PRODUCTS)]
    named = {name for node in nodes for name in (*node.input[:2], node.output[0])}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = _shapes(inferred)
    if not named <= shapes.keys():
        shapes |= _by_arithmetic(model)
    if not named <= shapes.keys():
        return None
    convolutions = [node for node in nodes if node.op_type in CONVOLUTIONS]
    return Complexity(
        macs=sum(_macs(node, shapes) for node in nodes),
        params=_params(inferred),
        activations=sum(math.prod(shapes[node.output[0]]) for node in convolutions),
        convs=len(convolutions),
    )


def _by_arithmetic(model: Any) -> Shapes:
    """Return what onnxruntime finds, which also follows sizes that the graph computes, such as sides filled up."""
    try:
        from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

        return _shapes(SymbolicShapeInference.infer_shapes(model, auto_merge=True).graph)
    except Exception:  # onnxruntime is not there, or its tool does not know an operator, which it says by any class
        return {}


def _fix_input(graph: Any, input_shape: Sequence[int]) -> None:
    """State the input's size, and forget sizes that the file states in letters."""
    sides = graph.input[0].type.tensor_type.shape.dim
    for side, value in zip(sides, input_shape, strict=True):
        side.dim_value = value
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def _shapes(graph: Any) -> Shapes:
    known = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sides = value.type.tensor_type.shape.dim
        if sides and all(side.HasField("dim_value") for side in sides):
            known[value.name] = tuple(side.dim_value for side in sides)
    return known


def _macs(node: Any, shapes: Shapes) -> int:
    source, weight, result = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":  # weight (out, in / groups, *kernel)
        return math.prod(result) * math.prod(weight[1:])
    if (
        node.op_type == "ConvTranspose"
    ):  # weight (in, out / groups, *kernel), once for every element that goes in
        return math.prod(source) * math.prod(weight[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(result) * source[-2 if transposed else -1]


def _params(graph: Any) -> int:
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    held = {name for node in graph.node if node.op_type in _HOLDERS for name in node.input[1:]}
    held |= {
        name
        for node in graph.node
        if node.op_type == "BatchNormalization"
        for name in node.input[1:3]
    }
    products = {node.output[0] for node in graph.node if node.op_type == "MatMul"}
    biased = [
        node.input for node in graph.node if node.op_type == "Add" and products & {*node.input}
    ]
    held |= {name for names in biased for name in names}
    return sum(size for name, size in sizes.items() if name in held)
