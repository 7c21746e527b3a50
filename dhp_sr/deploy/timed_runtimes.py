"""Runtimes in which latencies are measured, for budgets in the runtime of the user.

Layers are built as ONNX models of a single node, in milliseconds; exporting each of the hundreds
of widths of a table by PyTorch's exporter would take minutes. Whole networks are exported.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dhp_sr.cost.latency_benchmark import TORCH, TimedRuntime
from dhp_sr.deploy.onnx_graph import INPUT, OPSET, OUTPUT, convert_to_onnx
from dhp_sr.deploy.onnx_runner import open_session, require_onnx
from dhp_sr.deploy.openvino_runner import compile_model, require_openvino
from dhp_sr.deploy.simplify import simplify
from dhp_sr.utils.errors import UserError, unknown_name
from dhp_sr.utils.network_io import Example, inputs_of

Pass = Callable[[], object]
Compile = Callable[[bytes, np.ndarray, int], Pass]
"""(ONNX model, input, threads) -> a function that computes it once."""

_IR_VERSION = 10
"""Version of ONNX's file format that the oldest supported onnxruntime reads."""

_MAX_CACHED = 8


def timed_runtime(name: str) -> TimedRuntime:
    """Return the runtime that `compress.latency_runtime` names.

    Raises:
        UserError: It is unknown, or its packages are not installed.
    """
    if name == "torch":
        return TORCH
    if name == "onnxruntime":
        version = require_onnx().__version__
        return TimedRuntime(name, version, _Preparation(_compile_onnx))
    if name == "openvino":
        require_onnx()
        version = require_openvino().__version__
        return TimedRuntime(name, version, _Preparation(_compile_openvino))
    raise UserError(unknown_name("runtime", name, ("torch", "onnxruntime", "openvino")))


class _Preparation:
    """Compiles modules for a runtime; networks of the same layer shapes only once.

    A search compares many cut networks with the same dense one, and weights do not change the time.
    """

    def __init__(self, compile_onnx: Compile) -> None:
        self._compile = compile_onnx
        self._networks: dict[str, Pass] = {}

    def __call__(self, module: nn.Module, example: Example, threads: int) -> Pass:
        inputs = inputs_of(example)
        if len(inputs) > 1:
            raise UserError(
                f"latency: expected a network with one input, found {type(module).__name__} with "
                f"{len(inputs)}, which is exported to no other runtime; measure it in torch"
            )
        example = inputs[0]
        image = example.cpu().float().numpy()
        if isinstance(module, _ConvNd | nn.Linear):
            return self._compile(layer_to_onnx(module, example), image, threads)
        shapes = [(name, tuple(value.shape)) for name, value in module.state_dict().items()]
        key = f"{type(module).__name__} {shapes} {image.shape} {threads}"
        if key not in self._networks:
            if len(self._networks) >= _MAX_CACHED:
                # The first is the dense network, which every other is compared with.
                self._networks.pop(list(self._networks)[1])
            self._networks[key] = self._compile(network_to_onnx(module, example), image, threads)
        return self._networks[key]


def network_to_onnx(network: nn.Module, example: Tensor) -> bytes:
    """Export a network with free batch, height and width."""
    batch, channels, height, width = example.shape
    multiple = int(getattr(network, "size_multiple", 1))
    # Unlike sides, for the tracer; see `model_info.traced_shape`.
    shape = (batch, channels, height, width + 2 * multiple)
    return convert_to_onnx(simplify(network), shape, multiple, OPSET).SerializeToString()


def layer_to_onnx(layer: _ConvNd | nn.Linear, example: Tensor) -> bytes:
    """Build the ONNX model of a single layer for an input of a fixed shape."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {"weight": layer.weight}
    if layer.bias is not None:
        constants["bias"] = layer.bias
    nodes = []
    if isinstance(layer, nn.Linear):
        constants["weight"] = layer.weight.T
        product = "product" if layer.bias is not None else OUTPUT
        nodes.append(helper.make_node("MatMul", [INPUT, "weight"], [product]))
        if layer.bias is not None:
            nodes.append(helper.make_node("Add", [product, "bias"], [OUTPUT]))
    else:
        kind = "ConvTranspose" if isinstance(layer, _ConvTransposeNd) else "Conv"
        inputs = [INPUT, *constants]
        nodes.append(helper.make_node(kind, inputs, [OUTPUT], **_attributes(layer)))
    initializers = []
    for name, tensor in constants.items():
        array = np.ascontiguousarray(tensor.detach().cpu().float().numpy())
        initializers.append(numpy_helper.from_array(array, name))
    image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, list(example.shape))
    result = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "layer", [image], [result], initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    return model.SerializeToString()


def _attributes(layer: _ConvNd) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "group": layer.groups,
    }
    if isinstance(layer.padding, str):
        attributes["auto_pad"] = {"same": "SAME_UPPER", "valid": "VALID"}[layer.padding]
    else:
        # Before and after each axis; other modes than zeros take about as long.
        attributes["pads"] = [*layer.padding, *layer.padding]
    if isinstance(layer, _ConvTransposeNd):
        attributes["output_padding"] = list(layer.output_padding)
    return attributes


def _compile_onnx(content: bytes, image: np.ndarray, threads: int) -> Pass:
    session = open_session(content, threads)
    return lambda: session.run(None, {INPUT: image})


def _compile_openvino(content: bytes, image: np.ndarray, threads: int) -> Pass:
    model = require_openvino().Core().read_model(content)
    request = compile_model(model, "CPU", "fp32", threads)
    return lambda: request.infer({0: image})
