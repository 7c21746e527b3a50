"""From a network and one example input to a graph whose every value has a known shape."""

import copy
import inspect
import linecache
import re
import traceback
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from dhp_sr.graph.shape_inference import to_meta
from dhp_sr.graph.tracer import Tracer
from dhp_sr.utils.errors import UserError

ArgPath = tuple[Any, ...]
"""Where in a node's arguments: ("args", 1, 0), ("kwargs", "dim"), ("args", 1, 1, "stop"), ..."""


class TraceError(UserError):
    """The network's forward cannot be followed; the message names the place and what to do."""


class TracedNetwork(NamedTuple):
    """A traced copy of a network."""

    graph_module: fx.GraphModule
    """The network as a graph; module and parameter names are those of the original."""
    values: dict[fx.Node, Any]
    """What each node returned for the example, batch size 1; tensors on the meta device where possible."""
    guards: tuple[fx.Node, ...]
    """Numbers on which a branch, a loop or an assertion depended."""


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what every node returned."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = result = super().run_node(n)
        return result


def trace(network: nn.Module, example_input: Tensor, training: bool = False) -> TracedNetwork:
    """Trace a copy of `network` and run it once, without arithmetic where the operators allow it.

    Branches, loops and assertions on shapes are decided as for the example.

    Args:
        network: any module that torch.fx can follow; it is left as it was.
        example_input: (N, C, H, W) or whatever the network takes; only its first sample is used.
        training: follow what the forward does in training mode.

    Raises:
        TraceError: the network has weights without shapes, cannot be copied, takes several inputs, depends on values of
            tensors, or does not accept the example.
    """
    _check_shapes(network)
    example, root, absent = (
        example_input[:1],
        _copied(network).train(training),
        _absent_inputs(network),
    )
    try:
        graph_module, decided = _symbolic(root, network, example, absent)
    except Exception as error:
        raise TraceError(_untraceable(network, error)) from error
    return TracedNetwork(graph_module, record_values(graph_module, example), decided)


def _check_shapes(network: nn.Module) -> None:
    lazy = [
        name
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]
        if is_lazy(tensor)
    ]
    if lazy:
        raise TraceError(
            f"{type(network).__name__}: expected weights that have their shapes, found {', '.join(lazy[:3])} without "
            "(of a lazy layer, which takes them from its first input); run the network once on an example before"
        )


def _copied(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except Exception as error:  # whatever a module's own way of copying raises
        raise TraceError(
            f"{type(network).__name__} cannot be copied: {str(error).partition('.')[0]}. Layers that hold computed "
            "weights must be made plain first (torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove)"
        ) from error


def _absent_inputs(network: nn.Module) -> dict[str, None]:
    """Return the further inputs that are None where they are not given, as here.

    Raises:
        TraceError: the first input has no name of its own (`*inputs`), or one besides it must be given.
    """
    signature = inspect.signature(network.forward)
    if (
        next((one.kind for one in signature.parameters.values()), None)
        is inspect.Parameter.VAR_POSITIONAL
    ):
        raise TraceError(
            f"{type(network).__name__}: expected a forward with one input, found {signature}; "
            "give the image a name of its own, as in forward(self, x); of a wrapper (DataParallel, torch.compile) give "
            "the network inside"
        )
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    further = [one for one in list(signature.parameters.values())[1:] if one.kind in named]
    needed = [one.name for one in further if one.default is inspect.Parameter.empty]
    if needed:
        raise TraceError(
            f"{type(network).__name__}: expected a forward with one input, found {signature}; "
            f"give {', '.join(needed)} a default, or wrap the network in a module with one input"
        )
    return {one.name: None for one in further if one.default is None}


def _symbolic(
    root: nn.Module, network: nn.Module, example: Tensor, absent: dict[str, None]
) -> tuple[fx.GraphModule, tuple[fx.Node, ...]]:
    """Follow `root`; a second copy carries the graph, since a forward may leave its traces in the first."""
    tracer = Tracer(root, example)
    graph = tracer.trace(root, absent or None)
    holder = copy.deepcopy(network).eval()
    for name, constant in root.__dict__.items():
        if name.startswith("_tensor_constant"):
            setattr(holder, name, constant)
    graph_module = fx.GraphModule(holder, graph)
    names = {node.name: node for node in graph_module.graph.nodes}
    return graph_module, tuple(names[node.name] for node in tracer.guards)


def record_values(graph_module: fx.GraphModule, example: Tensor) -> dict[fx.Node, Any]:
    """Return what every node of a graph returns for an example.

    Raises:
        TraceError: the network does not accept it.
    """
    with torch.no_grad():
        try:
            recorder = _Recorder(to_meta(copy.deepcopy(graph_module)))
            recorder.run(example.to("meta"))
        except (
            Exception
        ):  # an operator without a shape rule, or a constant that stayed on its device
            recorder = _Recorder(graph_module)
            _run(recorder, example)
    nodes = {node.name: node for node in graph_module.graph.nodes}
    return {nodes[node.name]: value for node, value in recorder.values.items()}


def _run(recorder: _Recorder, example: Tensor) -> None:
    try:
        recorder.run(example)
    except Exception as error:
        shape = tuple(example.shape)
        raise TraceError(
            f"the network does not run on an example of shape {shape}: {error}"
        ) from error


def _untraceable(network: nn.Module, error: Exception) -> str:
    return f"{type(network).__name__} cannot be traced: {error}; at {_place(network, error)}. {_advice(error)}"


def _place(network: nn.Module, error: Exception) -> str:
    """Return the innermost line of the packages, or the script, that the network's modules are from."""
    own = {type(module).__module__.partition(".")[0] for module in network.modules()} - {"torch"}
    tracing, place = __name__.rpartition(".")[0], "its forward"
    for frame, number in traceback.walk_tb(error.__traceback__):
        name, path = frame.f_globals.get("__name__", ""), frame.f_code.co_filename
        if name.partition(".")[0] in own and not name.startswith(tracing):
            place = f"{path}:{number} ({linecache.getline(path, number).strip()})"
    return place


def _advice(error: Exception) -> str:
    maker = re.match(r"(zeros|ones|empty|rand|randn)\(\) takes 1 positional argument", str(error))
    if maker:  # torch takes separate sizes only as plain numbers
        return f"Sizes taken from a tensor must be one tuple: write torch.{maker[1]}((n, c, h, w)), or {maker[1]}_like"
    if "not installed as a submodule" in str(error):
        return "Layers are made in __init__ and kept as attributes or in a ModuleList, not made in forward or in a list"
    return "Shapes and branches must not depend on the values of tensors: write the place with tensor operations"
