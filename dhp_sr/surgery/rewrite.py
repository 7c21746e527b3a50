"""Rewriting the forward of a cut network, where the class has hard-coded sizes that no longer hold.

`torch.split(x, [16, 48], 1)` or `x[:, :16]` state numbers of channels. While a plan is made, the
rules record which argument of which node counts which channels (`SizePatch`). For a cut network
these arguments are set to the numbers of kept channels, in the traced graph; everything else of the
forward stays as it was traced. A network whose class comes to the right sizes by itself keeps its
class.

    traced                       patch (node, path to the argument, size)         cut to 40 channels
    split(x, [16, 48], dim=1)    ("split", ("args", 1), [12, 28])                 split(x, [12, 28])
    x[:, :16]                    ("getitem", ("args", 1, 1, "stop"), 12)          x[:, :12]
    x.view(n, -1, h, w)          none: the size is inferred                       the class's own
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.graph.capture import ArgPath, record_values, trace
from dhp_sr.operators.resize import state_width
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import evaluating, floating_dtype
from dhp_sr.utils.network_io import Example, first_samples, inputs_of, with_further_inputs

Size = int | list[int]
"""A number of channels, or the list of them that a split is given."""

Patches = dict[tuple[str, ArgPath], Size]
"""(name of a node, path to one of its arguments) -> size that the argument has to state."""

Arguments = dict[tuple[str, ArgPath], Any]
"""(name of a node, path to one of its arguments) -> the argument."""


class RewrittenNetwork(fx.GraphModule):
    """Network that runs a traced forward; its tensors have the names of the network it comes from.

    Decisions made while the forward was traced are permanent: branches on the mode are those of
    evaluation; where a branch depended on a shape, or a size went through `int()`, inputs that
    would decide otherwise are refused. Functional dropout and the like follow the mode.
    """

    def __init__(
        self,
        network: nn.Module,
        graph: fx.Graph,
        class_name: str,
        sizes: Mapping[str, Size],
        example_shape: Sequence[int],
    ) -> None:
        """Take over the modules and attributes of a network.

        Args:
            network: The cut network.
            graph: Its forward, with the sizes patched.
            class_name: Name of its class.
            sizes: Name of each of the plan's size patches -> the size that the forward states.
            example_shape: Shape of the input that was traced.
        """
        super().__init__(network, graph, class_name)
        # GraphModule copies only what the graph uses; a state dict must have everything.
        for registry in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            vars(self)[registry].clear()
            vars(self)[registry].update(vars(network)[registry])
        for name, value in vars(network).items():
            if not name.startswith("_") and name not in vars(self):
                setattr(self, name, value)
        self.sizes = dict(sizes)
        self.example_shape = tuple(example_shape)
        self.train(network.training)

    def __deepcopy__(self, memo: dict[int, Any]) -> "RewrittenNetwork":
        """Copy everything, including what the traced forward does not use."""
        holder = nn.Module()
        state = dict(vars(self))
        for name in (*_GRAPH_STATE, "forward"):
            state.pop(name, None)
        vars(holder).update(copy.deepcopy(state, memo))
        copied = RewrittenNetwork(
            holder,
            copy.deepcopy(self.graph),
            type(self).__name__,
            self.sizes,
            self.example_shape,
        )
        memo[id(self)] = copied
        # Put in place of the generated one while channels are masked; it refers to the network.
        if "forward" in vars(self):
            vars(copied)["forward"] = copy.deepcopy(vars(self)["forward"], memo)
        return copied


_GRAPH_STATE = ("_graph", "_code")
"""Attributes of a GraphModule that are made anew from its graph."""


def rewrite(
    network: nn.Module, small: nn.Module, plan: ChannelPlan, sizes: Sequence[Size]
) -> nn.Module:
    """Return `small`, with a rewritten forward if it contradicts the sizes.

    Args:
        network: The unpruned network.
        small: Its copy with the tensors cut.
        plan: The network's plan.
        sizes: For each of `plan.size_patches`, the size that the forward has to state.
    """
    parameter = next(network.parameters())
    image = torch.zeros(plan.example_shape, dtype=floating_dtype(network), device=parameter.device)
    example = with_further_inputs(image, plan.further_inputs)
    traced = trace(
        network, example, plan.training_time_form, join_computed_weights=True
    ).graph_module
    # Plain tensors that the forward uses are constants of the trace; they belong to no module.
    for name, constant in traced.named_buffers(recurse=False):
        if name.startswith("_tensor_constant"):
            small.register_buffer(name, constant, persistent=False)
    patches: Patches = {}
    nodes = {node.name: node for node in traced.graph.nodes}
    narrower = 0
    for patch, size in zip(plan.size_patches, sizes, strict=True):
        if patch.path[0] == "module":
            module = small.get_submodule(str(nodes[patch.node].target))
            narrower += state_width(module, patch.path[1], size)
        else:
            patches[patch.node, patch.path] = size
    # What no tensor tells is stated where the network is rebuilt from a file.
    is_suitable = not narrower and not runs_only_as_traced(network, small)
    if plan.checks:
        is_suitable = is_suitable and _runs(small, example)
        for name in plan.checks:
            traced.graph.erase_node(nodes.pop(name))
    if is_suitable and _fits_already(small, traced.graph, patches, example):
        return small
    _state_sizes(small, traced.graph, patches, example)
    _follow_mode(traced.graph)
    stated = {patch.name: size for patch, size in zip(plan.size_patches, sizes, strict=True)}
    return RewrittenNetwork(small, traced.graph, type(network).__name__, stated, plan.example_shape)


def runs_only_as_traced(network: nn.Module, small: nn.Module) -> bool:
    """Return whether a cut network has a module whose own forward does not take other widths.

    Such is torch's `nn.MultiheadAttention`, see `dhp_sr.graph.self_attention`.
    """
    for name, module in network.named_modules():
        if type(module) is not nn.MultiheadAttention:
            continue
        tensors = small.get_submodule(name).state_dict()
        for key, tensor in module.state_dict().items():
            if tensors[key].shape != tensor.shape:
                return True
    return False


def _runs(small: nn.Module, example: Example) -> bool:
    """Return whether a cut network's own forward runs, with its checks of numbers of channels."""
    try:
        with torch.no_grad(), evaluating(small):
            small(*inputs_of(first_samples(example)))
    except Exception:  # whatever the forward raises
        return False
    return True


def _follow_mode(graph: fx.Graph) -> None:
    """Let functions traced with `training=False`, such as dropout, read the network's mode."""
    with graph.inserting_before(next(iter(graph.nodes))):
        mode = graph.create_node("get_attr", "training")
    for node in graph.nodes:
        if node.op != "call_function" or not inspect.isfunction(node.target):
            continue
        names = list(inspect.signature(node.target).parameters)
        if "training" not in names:
            continue
        position = names.index("training")
        if node.kwargs.get("training") is False:
            node.update_kwarg("training", mode)
        elif position < len(node.args) and node.args[position] is False:
            node.update_arg(position, mode)
    if not mode.users:
        graph.erase_node(mode)


def _fits_already(small: nn.Module, graph: fx.Graph, patches: Patches, example: Example) -> bool:
    """Return whether the forward, as it is, comes to all sizes by itself."""
    computed = _computed_arguments(graph, patches)
    nodes = {node.name: node for node in graph.nodes}
    for (name, path), size in patches.items():
        if (name, path) not in computed and not _states(_read_argument(nodes[name], path), size):
            return False
    if not computed:
        return True
    # Sizes that the forward computes are known only once it runs with the cut tensors.
    try:
        values = _evaluate(computed, small, graph, example)
    except UserError:  # it does not even run
        return False
    return all(_states(value, patches[key]) for key, value in values.items())


def _state_sizes(small: nn.Module, graph: fx.Graph, patches: Patches, example: Example) -> None:
    """Let a graph state all sizes; those that the forward computes rightly stay computed.

    `x.reshape(n * c // 2, 2, -1)` follows the batch, which a written number would not.
    """
    computed = _computed_arguments(graph, patches)
    nodes = {node.name: node for node in graph.nodes}
    for (name, path), size in patches.items():
        if not _states(_read_argument(nodes[name], path), size):
            _write_argument(nodes[name], path, size)
    if not computed:
        return
    # With all sizes written every value is as it has to be, the numbers that are not read included.
    values = _evaluate(computed, small, graph, example)
    for (name, path), value in values.items():
        if _states(value, patches[name, path]):
            _write_argument(nodes[name], path, computed[name, path])


def _computed_arguments(graph: fx.Graph, patches: Patches) -> Arguments:
    """Return the patched arguments that the forward computes."""
    nodes = {node.name: node for node in graph.nodes}
    arguments = {(name, path): _read_argument(nodes[name], path) for name, path in patches}
    return {key: argument for key, argument in arguments.items() if _is_computed(argument)}


def _evaluate(
    arguments: Arguments, small: nn.Module, graph: fx.Graph, example: Example
) -> Arguments:
    """Return what arguments come to when a graph runs with the tensors of the cut network.

    Raises:
        UserError: It does not run.
    """
    runnable = fx.GraphModule(copy.deepcopy(small), copy.deepcopy(graph))
    values = record_values(runnable, first_samples(example))
    # By name: the values are those of a copy of the graph.
    value_of = {node.name: value for node, value in values.items()}
    return {
        key: fx.node.map_arg(argument, lambda node: value_of[node.name])
        for key, argument in arguments.items()
    }


def _is_computed(argument: object) -> bool:
    """Return whether an argument, or an entry of it, is the result of a node."""
    if isinstance(argument, tuple | list):
        return any(map(_is_computed, argument))
    return isinstance(argument, fx.Node)


def _states(argument: object, size: Size) -> bool:
    """Return whether an argument states a size."""
    if isinstance(size, list) and isinstance(argument, int):
        # torch.split with a single size: all chunks have it, and the last has the rest.
        return size[:-1] == [argument] * (len(size) - 1) and size[-1] <= argument
    if isinstance(size, list) and isinstance(argument, tuple | list):
        return list(argument) == size
    return argument == size


def _read_argument(node: fx.Node, path: ArgPath) -> Any:
    argument: Any = {"args": node.args, "kwargs": node.kwargs}
    for step in path:
        # Bounds of a slice are attributes; everything else is a tuple, a list or a dictionary.
        argument = getattr(argument, step) if isinstance(argument, slice) else argument[step]
    return argument


def _write_argument(node: fx.Node, path: ArgPath, argument: Any) -> None:
    arguments = _with_argument({"args": node.args, "kwargs": node.kwargs}, path, argument)
    node.args = arguments["args"]
    node.kwargs = arguments["kwargs"]


def _with_argument(container: Any, path: ArgPath, size: Any) -> Any:
    """Return a copy of nested arguments with another size at `path`."""
    if not path:
        return size
    step, *rest = path
    if isinstance(container, slice):
        bounds = {"start": container.start, "stop": container.stop, "step": container.step}
        bounds[step] = size
        return slice(bounds["start"], bounds["stop"], bounds["step"])
    if isinstance(container, Mapping):
        return {**container, step: _with_argument(container[step], tuple(rest), size)}
    entries = list(container)
    entries[step] = _with_argument(entries[step], tuple(rest), size)
    return type(container)(entries)
