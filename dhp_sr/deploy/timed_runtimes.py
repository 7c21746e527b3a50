"""Runtimes in which latencies are measured, for budgets in the runtime of the user.

Layers are built as ONNX models of a single node, in milliseconds; exporting each of the hundreds
of widths of a table by PyTorch's exporter would take minutes. Whole networks are exported. For
torch.compile layers stay uncompiled, and whole networks are compiled.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dhp_sr.cost.latency_benchmark import TORCH, TimedRuntime
from dhp_sr.deploy.onnx_graph import INPUT, OPSET, OUTPUT, convert_to_onnx
from dhp_sr.deploy.onnx_runner import (
    CPU_PROVIDER,
    choose_providers,
    open_session,
    require_onnx,
)
from dhp_sr.deploy.openvino_runner import compile_model, require_openvino
from dhp_sr.deploy.runtimes import RUNTIMES
from dhp_sr.deploy.simplify import simplify
from dhp_sr.utils.devices import device_by_name, thread_count
from dhp_sr.utils.errors import UserError, unknown_name
from dhp_sr.utils.network_io import Example, inputs_of

Pass = Callable[[], object]
Compile = Callable[[bytes, np.ndarray, int], Pass]
"""(ONNX model, input, threads) -> a function that computes it once."""

_IR_VERSION = 10
"""Version of ONNX's file format that the oldest supported onnxruntime reads."""

_MAX_CACHED = 8
_MAX_COMPILED = 1000


_OPENVINO_DEVICES = {"openvino": "CPU", "openvino-gpu": "GPU", "openvino-npu": "NPU"}


def timed_runtime(name: str) -> TimedRuntime:
    """Return the runtime that `compress.latency_runtime` names.

    Args:
        name: Key of `runtimes.RUNTIMES`.

    Raises:
        UserError: It is unknown, its packages are not installed, or its device is not there.
    """
    if name == "torch":
        return TORCH
    if name == "torch.compile":
        return TimedRuntime(name, torch.__version__, _prepare_compiled, is_torch=True)
    if name == "onnxruntime":
        version = require_onnx().__version__
        return TimedRuntime(name, version, _Preparation(_compile_onnx))
    if name == "tensorrt":
        version = require_onnx().__version__
        compile_onnx = partial(_compile_onnx, providers=_tensorrt_providers())
        card = torch.cuda.get_device_name()
        return TimedRuntime(name, version, _Preparation(compile_onnx), card)
    if name in _OPENVINO_DEVICES:
        require_onnx()
        version = require_openvino().__version__
        device = _OPENVINO_DEVICES[name]
        preparation = _Preparation(partial(_compile_openvino, device=device))
        processor = "" if device == "CPU" else _openvino_name(device)
        return TimedRuntime(name, version, preparation, processor)
    raise UserError(unknown_name("runtime", name, tuple(RUNTIMES)))


def _tensorrt_providers() -> list[str]:
    device = device_by_name("cuda")
    return choose_providers("tensorrt", device, require_onnx().get_available_providers())


def _openvino_name(device: str) -> str:
    """Return the full name of a graphics or neural processor.

    Raises:
        UserError: The machine has none.
    """
    core = require_openvino().Core()
    present = core.available_devices
    # GPU.0 and GPU.1 where there are two of a kind.
    if device not in {name.partition(".")[0] for name in present}:
        raise UserError(f"OpenVINO: expected a device among {', '.join(present)}, got {device}")
    return str(core.get_property(device, "FULL_DEVICE_NAME"))


def _prepare_compiled(module: nn.Module, example: Example, threads: int) -> Pass:
    """Compile a whole network; layers are what they are uncompiled, and there are hundreds."""
    inputs = inputs_of(example)
    if isinstance(module, _ConvNd | nn.Linear):
        return partial(module, *inputs)
    compiled = torch.compile(module, dynamic=False)
    # Compiled at the first call, for this number of threads, and for more networks of a class than
    # PyTorch would compile: with the eighth it goes back to uncompiled ones without an error.
    limit = torch._dynamo.config.patch(recompile_limit=_MAX_COMPILED)
    with limit, torch.no_grad(), thread_count(threads):
        try:
            compiled(*inputs)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            lines = str(error).strip().splitlines()
            raise UserError(
                f"torch.compile: {lines[0]}; install a C++ compiler, or measure in torch"
            ) from error
    return partial(compiled, *inputs)


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


def _compile_onnx(
    content: bytes,
    image: np.ndarray,
    threads: int,
    providers: Sequence[str] = (CPU_PROVIDER,),
) -> Pass:
    session = open_session(content, threads, providers)
    return lambda: session.run(None, {INPUT: image})


def _compile_openvino(content: bytes, image: np.ndarray, threads: int, device: str = "CPU") -> Pass:
    model = require_openvino().Core().read_model(content)
    request = compile_model(model, device, "fp32", threads)
    return lambda: request.infer({0: image})
