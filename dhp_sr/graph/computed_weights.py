"""Modules whose forward computes the weight of a layer, found in a traced graph.

    weight --> (w - mean) / std --.
    x ---------------------------conv2d --> y        one module: a standardized convolution

Followed operator by operator, an entry of such a weight belongs to an output and to an input
channel at once, and so does everything computed from it. As a single operator the module is a layer
like any other: it has input and output channels.
"""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

LAYER_FUNCTIONS = (
    *(F.conv1d, F.conv2d, F.conv3d, F.linear),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)
"""Functions of layers; their second argument is the weight."""

CASTS = ("to", "type", "type_as", "float", "double", "half", "bfloat16", "contiguous")
"""Methods that leave the values of a weight as they are."""

Inputs = dict[int | str, Any]
"""Name of an argument, or its position where it has none, -> its value for the example."""


def arguments_of(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Inputs:
    """Return the arguments of a module's call by the names that its forward gives them.

    The same argument has the same key in every call, by position or by keyword.

    Args:
        module: The forward is that of its class, whatever the instance was given instead.
        args: Arguments by position.
        kwargs: Arguments by keyword.
    """
    names: list[str] = []
    for parameter in list(inspect.signature(type(module).forward).parameters.values())[1:]:
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            break
        names.append(parameter.name)
    # Those of `*args` have no names, and none may have one then.
    keys: Sequence[int | str] = names if len(args) <= len(names) else range(len(args))
    given: Inputs = dict(zip(keys, args, strict=False))
    given.update(kwargs)
    # In the order of the forward, whatever that of the call is.
    return {name: given[name] for name in [*names, *given] if name in given}


def call_with(function: Callable[..., Any], inputs: Inputs) -> Any:
    """Call a function with arguments by name or position."""
    args, kwargs = split_inputs(inputs)
    return function(*args, **kwargs)


def split_inputs(inputs: Inputs) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments by position, and those by name."""
    args = [value for key, value in inputs.items() if isinstance(key, int)]
    kwargs = {key: value for key, value in inputs.items() if isinstance(key, str)}
    return args, kwargs


class ModuleCall(NamedTuple):
    """Arguments of a module's first call, with proxies for traced values."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def may_compute_weights(module: nn.Module) -> bool:
    """Return whether a module holds what a weight could be computed from."""
    if type(module).__module__.startswith("torch.nn."):
        return False
    for parameter in module._parameters.values():
        if parameter is not None and parameter.dim() > 1:
            return True
    return False


def modules_that_compute_weights(
    graph: fx.Graph,
    calls: Mapping[str, ModuleCall],
    value_of: Callable[[fx.Node], Any],
    is_layer: Callable[[nn.Module, Inputs], bool],
) -> list[str]:
    """Return the modules that compute the weight of a layer and count as single operators.

    Args:
        graph: Graph of a network whose modules were all followed.
        calls: Calls of modules that may be such, by path.
        value_of: Returns the value of a node for the example, on the meta device.
        is_layer: Whether a module's channels are known, given examples of its inputs.
    """
    owners = modules_with_computed_weight(graph, calls)
    if not owners:
        return []
    # Modules that hold a layer worth following by itself: as a single operator, they would hide it.
    refused = set()
    for node in graph.nodes:
        if node.op == "call_module" and not _works_on_vectors(node, calls, value_of):
            refused.update(set(_paths(node)) - {str(node.target)})
    single = []
    for path in owners:
        inputs = _examples(calls[path], value_of)
        module = calls[path].module
        if path not in refused and inputs and is_layer(module, inputs):
            single.append(path)
    return single


def modules_with_computed_weight(graph: fx.Graph, calls: Collection[str]) -> list[str]:
    """Return the modules whose own forward calls a layer with a weight that it has computed.

    Args:
        graph: Graph of a network whose modules were all followed.
        calls: Paths of the modules that count; calls of layers in others are passed over.
    """
    owners: dict[str, None] = {}  # in the order of the graph, each once
    for node in graph.nodes:
        paths = _paths(node)
        calls_layer = node.op == "call_function" and node.target in LAYER_FUNCTIONS
        # The innermost module around it: those further out may hold many layers.
        if not calls_layer or not paths or paths[-1] not in calls:
            continue
        weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
        if isinstance(weight, fx.Node) and _is_computed(weight):
            owners[paths[-1]] = None
    return list(owners)


def _paths(node: fx.Node) -> list[str]:
    """Return the modules in whose forward a node was recorded, from the outermost inwards."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values()]


def _is_computed(weight: fx.Node) -> bool:
    """Return whether a weight is more than a parameter in another type."""
    while weight.op == "call_method" and weight.target in CASTS:
        source = weight.args[0]
        assert isinstance(source, fx.Node), "a method is called on a traced value"
        weight = source
    return weight.op.startswith("call")


def _works_on_vectors(
    node: fx.Node, calls: Mapping[str, ModuleCall], value_of: Callable[[fx.Node], Any]
) -> bool:
    """Return whether a module inside another has no weights, or works on a vector for an image.

    A layer that works on a map is worth following by itself.
    """
    paths = [path for path in _paths(node) if path in calls]
    if not paths:
        return True
    names = [name for name, _ in calls[paths[0]].module.named_parameters()]
    inner = str(node.target).removeprefix(paths[0]).removeprefix(".")
    if not any(name.startswith(f"{inner}.") for name in names):
        return True
    value = value_of(node)
    return isinstance(value, Tensor) and math.prod(value.shape[2:]) == 1


def _examples(call: ModuleCall, value_of: Callable[[fx.Node], Any]) -> Inputs:
    """Return the values of a call's arguments; empty where they are other than tensors."""
    inputs: Inputs = {}
    for key, argument in arguments_of(call.module, call.args, call.kwargs).items():
        value = argument
        if isinstance(argument, fx.Proxy):
            value = value_of(argument.node)
            if not isinstance(value, Tensor):
                return {}
        elif not isinstance(argument, (int, float, bool, str, torch.dtype, type(None))):
            return {}
        inputs[key] = value
    return inputs
