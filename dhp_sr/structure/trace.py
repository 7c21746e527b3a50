"""From a network and one example input to a graph whose every value has a known shape."""

import copy
import inspect
import math
import operator
import re
import traceback
from collections.abc import Iterator
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
    decided: tuple[fx.Node, ...]
    """Numbers on which a branch, a loop or an assertion depended."""


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what every node returned."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = result = super().run_node(n)
        return result


def trace(network: nn.Module, example_input: Tensor, training: bool = False) -> Traced:
    """Trace a copy of `network` and run it once, without arithmetic where the operators allow it.

    Branches, loops and assertions on shapes are decided as for the example.

    Args:
        network: any module that torch.fx can follow; it is left as it was.
        example_input: (N, C, H, W) or whatever the network takes; only its first sample is used.
        training: follow what the forward does in training mode.

    Raises:
        TraceError: the network cannot be copied, takes several inputs, depends on values of tensors, or does not accept
            the example.
    """
    example, root, absent = example_input[:1], _copied(network).train(training), _absent_inputs(network)
    try:
        graph_module, decided = _symbolic(root, network, example, absent)
    except Exception as error:
        raise TraceError(_untraceable(network, error)) from error
    return Traced(graph_module, record(graph_module, example), decided)


def _copied(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except Exception as error:  # whatever a module's own way of copying raises
        raise TraceError(
            f"{type(network).__name__} cannot be copied: {str(error).partition('.')[0]}. Layers that hold computed "
            "weights must be made plain first (torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove), "
            "or use torch.nn.utils.parametrizations"
        ) from error


def _absent_inputs(network: nn.Module) -> dict[str, None]:
    """Return the further inputs that are None where they are not given, as here.

    Raises:
        TraceError: an input besides the first must be given.
    """
    signature = inspect.signature(network.forward)
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
    tracer = _Tracer(root, example)
    graph = tracer.trace(root, absent or None)
    holder = copy.deepcopy(network).eval()
    for name, constant in root.__dict__.items():
        if name.startswith("_tensor_constant"):
            setattr(holder, name, constant)
    graph_module = fx.GraphModule(holder, graph)
    names = {node.name: node for node in graph_module.graph.nodes}
    return graph_module, tuple(names[node.name] for node in tracer.decided)


class _Tracer(fx.Tracer):
    """Follows a forward; what depends on the example's shape alone is worked out on the way."""

    proxy_buffer_attributes = True  # so that sizes from the example can be given to methods of buffers

    def __init__(self, root: nn.Module, example: Tensor) -> None:
        super().__init__(autowrap_functions=())
        self._root, self._example = to_meta(copy.deepcopy(root)), example.to("meta")
        self._shapes: _Shapes | None = None
        self.decided: list[fx.Node] = []

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = self.known(obj)
        if isinstance(value, (bool, int, float)):
            self.hold(obj, value)
        return bool(value) if isinstance(value, (bool, int, float, tuple)) else super().to_bool(obj)

    def hold(self, proxy: fx.Proxy, value: float) -> None:
        """Let the graph insist on a number that was decided on, rather than compute something else elsewhere."""
        message = f"this forward was followed with {proxy.node.name} = {value}, not so for an input of this shape"
        self.create_proxy("call_function", torch._assert, (proxy == value, message), {})

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        value = self.known(obj, decides=False)
        if isinstance(value, (tuple, list)):
            return iter([obj[place] for place in range(len(value))])
        return super().iter(obj)

    def known(self, proxy: fx.Proxy, decides: bool = True) -> Any:
        """Return what a proxy stands for, or a value without numbers in it where that depends on tensors."""
        if self._shapes is None:
            self._shapes = _Shapes(self._root, self._example, self.graph)
        value = self._shapes.of(proxy.node)
        if decides and not isinstance(value, (Tensor, type(None))):
            self.decided.append(proxy.node)
        return value


class _Proxy(fx.Proxy):
    """Stands for a value while a forward is followed; assignments to parts and sizes as numbers are allowed."""

    def __setitem__(self, place: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, place, value), {})

    def __index__(self) -> int:
        value = self.tracer.known(self)
        if not isinstance(value, int):
            raise TypeError("a number that depends on the values of tensors is used as an integer")
        return value  # without `hold`: torch asks, too, where it reads arguments that then stay in the trace

    def __int__(self) -> int:
        return int(float(self))

    def __float__(self) -> float:
        value = self.tracer.known(self)
        if not isinstance(value, (int, float)):
            raise TypeError("a number that depends on the values of tensors is used as a Python number")
        self.tracer.hold(self, value)
        return float(value)

    def __round__(self, digits: int | None = None) -> float:
        return round(float(self), digits)

    def __ceil__(self) -> int:
        return math.ceil(float(self))

    def __floor__(self) -> int:
        return math.floor(float(self))

    def __len__(self) -> int:
        value = self.tracer.known(self, decides=False)
        return len(value) if isinstance(value, (tuple, list)) else super().__len__()


class _Shapes(fx.Interpreter):
    """Runs a graph that is still growing, on the meta device."""

    def __init__(self, root: nn.Module, example: Tensor, graph: fx.Graph) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self._example, self._failed = example, set()

    def of(self, wanted: fx.Node) -> Any:
        """Return a node's value; None where it cannot be worked out."""
        for node in self.graph.nodes:
            if node not in self.env and node not in self._failed:
                try:
                    with torch.no_grad():
                        self.env[node] = self.run_node(node)
                except Exception:  # whatever an operator raises without values: this one is unknown
                    self._failed.add(node)
        return self.env.get(wanted)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return args[0] if args else self._example

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.submodules[target].forward(*args, **kwargs)  # calls of modules are being followed


def to_meta(network: nn.Module) -> nn.Module:
    """Move a network to the meta device in place, tensors that are neither parameters nor buffers included."""
    for module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                setattr(module, name, value.to("meta"))
    return network.to("meta")


def record(graph_module: fx.GraphModule, example: Tensor) -> dict[fx.Node, Any]:
    """Return what every node of a graph returns for an example.

    Raises:
        TraceError: the network does not accept it.
    """
    with torch.no_grad():
        try:
            recorder = _Recorder(to_meta(copy.deepcopy(graph_module)))
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
    return f"{type(network).__name__} cannot be traced: {error}; at {place}. {_advice(error)}"


def _advice(error: Exception) -> str:
    maker = re.match(r"(zeros|ones|empty|rand|randn)\(\) takes 1 positional argument", str(error))
    if maker:  # torch takes separate sizes only as plain numbers
        return f"Sizes taken from a tensor must be one tuple: write torch.{maker[1]}((n, c, h, w)), or {maker[1]}_like"
    return "Shapes and branches must not depend on the values of tensors: write the place with tensor operations"
