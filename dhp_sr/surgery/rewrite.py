"""The forward of a cut network, where the class's own states sizes that no longer hold.

While a plan is made, the rules note which argument of which node counts which channels (`SizePatch`). For a cut those
arguments get the numbers of channels kept; everything else of the forward stays as it was traced.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.graph.capture import ArgPath, record_values, trace
from dhp_sr.utils.errors import UserError

Numbers = Mapping[tuple[str, ArgPath], int | list[int]]
"""(node, place among its arguments) -> the number to stand there."""


class RewrittenNetwork(fx.GraphModule):
    """A network that runs a traced forward; its tensors have the names they have in the network it comes from.

    What was decided while the forward was traced stays decided: branches on the mode are those of evaluation; where a
    branch hung on a shape, or a size went through `int()`, inputs that decide otherwise are refused.
    Functional dropout and the like follow the mode.
    """

    def __init__(
        self,
        network: nn.Module,
        graph: fx.Graph,
        class_name: str,
        stated: Sequence[Any],
        example_shape: Sequence[int],
    ) -> None:
        super().__init__(network, graph, class_name)
        for held in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            vars(self)[held].clear()
            vars(self)[held].update(vars(network)[held])
        for name, value in vars(network).items():
            if not name.startswith("_") and name not in vars(self):
                setattr(self, name, value)
        self.stated, self.example_shape = tuple(stated), tuple(example_shape)
        self.train(network.training)

    def __deepcopy__(self, memo: dict[int, Any]) -> "RewrittenNetwork":
        """Copy everything, also what the traced forward does not use."""
        holder = nn.Module()
        own = {name: value for name, value in vars(self).items() if name not in ("_graph", "_code")}
        vars(holder).update(copy.deepcopy(own, memo))
        graph = copy.deepcopy(self.graph)
        memo[id(self)] = copied = RewrittenNetwork(
            holder, graph, type(self).__name__, self.stated, self.example_shape
        )
        return copied


def rewrite(
    network: nn.Module, small: nn.Module, plan: ChannelPlan, stated: Sequence[int | list[int]]
) -> nn.Module:
    """Return `small`, or, where its forward contradicts the numbers, the same network with the numbers in its forward.

    Args:
        network: the unpruned network.
        small: its copy with the tensors cut.
        plan: the network's plan.
        stated: for each of `plan.size_patches`, what the forward must state.
    """
    like = next(tensor for tensor in network.parameters() if tensor.is_floating_point())
    example = like.new_zeros(plan.example_shape)
    traced = trace(network, example, plan.training_time_form).graph_module
    for name, constant in traced.named_buffers(recurse=False):
        if name.startswith("_tensor_constant"):
            small.register_buffer(name, constant, persistent=False)
    numbers = {
        (one.node, one.path): value for one, value in zip(plan.size_patches, stated, strict=True)
    }
    numbers = _without_widths(small, traced.graph, numbers)
    if _holds(small, traced.graph, numbers, example):
        return small
    for node in traced.graph.nodes:
        for (name, path), number in numbers.items():
            if name == node.name and not _agrees(_read(node, path), number):
                both = _written({"args": node.args, "kwargs": node.kwargs}, path, number)
                node.args, node.kwargs = both["args"], both["kwargs"]
    _follow_mode(traced.graph)
    return RewrittenNetwork(small, traced.graph, type(network).__name__, stated, plan.example_shape)


def _follow_mode(graph: fx.Graph) -> None:
    """Let functions that were told "not in training" (dropout) ask the network for its mode instead."""
    first = next(iter(graph.nodes))
    with graph.inserting_before(first):
        mode = graph.create_node("get_attr", "training")
    for node in graph.nodes:
        place = _training_place(node)
        if place in node.kwargs and node.kwargs[place] is False:
            node.update_kwarg(place, mode)
        elif isinstance(place, int) and place < len(node.args) and node.args[place] is False:
            node.update_arg(place, mode)
    if not mode.users:
        graph.erase_node(mode)


def _training_place(node: fx.Node) -> int | str | None:
    """Return where a call is told whether it trains: an argument's place, or its name if it is given by name."""
    if node.op != "call_function" or not inspect.isfunction(node.target):
        return None
    names = list(inspect.signature(node.target).parameters)
    return (
        None
        if "training" not in names
        else "training"
        if "training" in node.kwargs
        else names.index("training")
    )


def _without_widths(small: nn.Module, graph: fx.Graph, numbers: Numbers) -> Numbers:
    """Tell modules without tensors their widths; returns the numbers that stand in the forward."""
    targets = {node.name: str(node.target) for node in graph.nodes}
    for (node, (kind, name, *_)), number in numbers.items():
        if kind == "module":
            setattr(small.get_submodule(targets[node]), name, number)
    return {key: number for key, number in numbers.items() if key[1][0] != "module"}


def _holds(small: nn.Module, graph: fx.Graph, numbers: Numbers, example: Tensor) -> bool:
    """Return whether the forward, as it is, comes to all these numbers by itself."""
    nodes = {node.name: node for node in graph.nodes}
    given = {key: _read(nodes[key[0]], key[1]) for key in numbers}
    if not all(
        _is_computed(given[key]) or _agrees(given[key], number) for key, number in numbers.items()
    ):
        return False
    if not any(map(_is_computed, given.values())):
        return True
    try:
        values = record_values(
            fx.GraphModule(copy.deepcopy(small), copy.deepcopy(graph)), example[:1]
        )
    except UserError:  # it does not even run
        return False
    by_name = {node.name: value for node, value in values.items()}
    found = {
        key: fx.node.map_arg(argument, lambda node: by_name[node.name])
        for key, argument in given.items()
    }
    return all(_agrees(found[key], number) for key, number in numbers.items())


def _is_computed(argument: Any) -> bool:
    return any(
        isinstance(one, fx.Node)
        for one in (argument if isinstance(argument, (tuple, list)) else [argument])
    )


def _agrees(given: Any, number: int | list[int]) -> bool:
    """Return whether an argument states a number; one size given for several parts leaves the rest to the last."""
    if isinstance(number, int) or not isinstance(given, int):
        return given == number or (isinstance(given, (tuple, list)) and list(given) == number)
    return all(part == given for part in number[:-1]) and number[-1] <= given


def _read(node: fx.Node, path: ArgPath) -> Any:
    found: Any = {"args": node.args, "kwargs": node.kwargs}
    for step in path:
        found = getattr(found, step) if isinstance(found, slice) else found[step]
    return found


def _written(whole: Any, path: ArgPath, number: int | list[int]) -> Any:
    """Return nested arguments with another number at `path`."""
    if not path:
        return number
    step, rest = path[0], path[1:]
    if isinstance(whole, slice):
        bounds = {name: getattr(whole, name) for name in ("start", "stop", "step")}
        return slice(*{**bounds, step: number}.values())
    if isinstance(whole, Mapping):
        return {**whole, step: _written(whole[step], rest, number)}
    return type(whole)(
        _written(part, rest, number) if place == step else part for place, part in enumerate(whole)
    )
