"""From a network and one example input to a graph whose every value has a known shape."""

import copy
import traceback
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from dhp_sr.utils.errors import UserError


class TraceError(UserError):
    """The network's forward cannot be followed; the message names the place and what to do."""


class Traced(NamedTuple):
    """A traced copy of a network."""

    graph_module: fx.GraphModule
    """The network as a graph; module and parameter names are those of the original."""
    values: dict[fx.Node, Any]
    """What each node returned for the example, batch size 1; tensors on the meta device where possible."""


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what every node returned."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = result = super().run_node(n)
        return result


def trace(network: nn.Module, example_input: Tensor) -> Traced:
    """Trace a copy of `network` and run it once, without arithmetic where the operators allow it.

    Args:
        network: any module that torch.fx can follow; it is left as it was.
        example_input: (N, C, H, W) or whatever the network takes; only its first sample is used.

    Raises:
        TraceError: the forward depends on values of tensors, or does not accept the example.
    """
    root = copy.deepcopy(network).eval()
    tracer = fx.Tracer(autowrap_functions=())
    try:
        graph = tracer.trace(root)
    except Exception as error:
        raise TraceError(_untraceable(network, error)) from error
    graph_module = fx.GraphModule(root, graph)
    return Traced(graph_module, _values(graph_module, example_input[:1]))


def _values(graph_module: fx.GraphModule, example: Tensor) -> dict[fx.Node, Any]:
    with torch.no_grad():
        try:
            recorder = _Recorder(copy.deepcopy(graph_module).to("meta"))
            recorder.run(example.to("meta"))
        except Exception:  # an operator without a shape rule, or a constant that stayed on its device
            recorder = _Recorder(graph_module)
            _run(recorder, example)
    nodes = {node.name: node for node in graph_module.graph.nodes}
    return {nodes[node.name]: value for node, value in recorder.values.items()}


def _run(recorder: _Recorder, example: Tensor) -> None:
    try:
        recorder.run(example)
    except Exception as error:
        shape = tuple(example.shape)
        raise TraceError(f"the network does not run on an example of shape {shape}: {error}") from error


def _untraceable(network: nn.Module, error: Exception) -> str:
    place = "its forward"
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.name == "forward" and "torch/fx" not in frame.filename.replace("\\", "/"):
            place = f"{frame.filename}:{frame.lineno} ({(frame.line or '').strip()})"
    return (
        f"{type(network).__name__} cannot be traced: {error}; at {place}. "
        "Shapes and branches must not depend on the values of tensors: write the place with tensor operations, "
        "or move it into a torch.nn module of its own"
    )
