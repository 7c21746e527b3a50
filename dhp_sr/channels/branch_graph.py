"""A traced network as the search for removable branches sees it: modules, tensors, channels."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.graph.capture import TracedNetwork
from dhp_sr.operators.registry import spec_for
from dhp_sr.operators.spec import OpSpec
from dhp_sr.utils.modules import canonical_names

_PINNED = ""
"""Stands for pinned channels among the groups of an axis."""


class BranchGraph:
    """The graph of a network, with the channels that its plan binds to tensors.

    Args:
        traced: the network, as its plan was made of it.
        plan: its plan.
    """

    def __init__(self, traced: TracedNetwork, plan: ChannelPlan) -> None:
        self.plan = plan
        self.values = traced.values
        self.nodes = list(traced.graph_module.graph.nodes)
        self._position = {node: index for index, node in enumerate(self.nodes)}
        self._modules = dict(traced.graph_module.named_modules(remove_duplicate=False))
        called = [self.module(node) for node in self.nodes if calls_module(node)]
        self._num_calls = Counter(id(module) for module in called)
        self._num_names = Counter(canonical_names(traced.graph_module).values())
        self._reads_input = _reading_input(self.nodes)
        self._groups_of_axis, self._tensors_of_group = _bound_groups(plan)

    def module(self, node: fx.Node) -> nn.Module:
        """Return the module that a node calls."""
        return self._modules[str(node.target)]

    def spec(self, node: fx.Node) -> OpSpec | None:
        """Return the registry entry of a call; None for inputs, constants and outputs."""
        if not node.op.startswith("call"):
            return None
        return spec_for(node, self.module(node) if calls_module(node) else None)

    def is_layer(self, node: fx.Node) -> bool:
        """Return whether a node calls a module whose multiply-adds are counted."""
        spec = self.spec(node)
        return calls_module(node) and spec is not None and spec.macs is not None

    def has_product(self, node: fx.Node) -> bool:
        """Return whether a node multiplies by weights that no module holds, or by features."""
        spec = self.spec(node)
        is_function = spec is not None and spec.macs is not None and not calls_module(node)
        return is_function or f"{node.name}()" in self.plan.weights

    def tensors(self, node: fx.Node) -> list[str]:
        """Return the names of the parameters and buffers of the module that a node calls."""
        module = self.module(node)
        named = [*module.named_parameters(), *module.named_buffers()]
        return [f"{node.target}.{name}" for name, _ in named]

    def is_called_once(self, node: fx.Node) -> bool:
        """Return whether no other node calls the module."""
        return self._num_calls[id(self.module(node))] == 1

    def shares_tensor(self, node: fx.Node) -> bool:
        """Return whether another module holds one of the module's tensors, too."""
        return any(self._num_names[name] != 1 for name in self.tensors(node))

    def has_only(self, axis: tuple[str, int], groups: Iterable[str]) -> bool:
        """Return whether an axis of a tensor holds channels of these groups and no others."""
        return self._groups_of_axis.get(axis, {_PINNED}).issubset(groups)

    def is_bound(self, axis: tuple[str, int]) -> bool:
        """Return whether the plan knows the channels along an axis of a tensor."""
        return axis in self._groups_of_axis

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """Return the operands of a sum that nothing else reads, the last computed first.

        An empty list where the node is no sum, or adds a constant.
        """
        spec = self.spec(node)
        operands = [value for value in node.all_input_nodes if value in self._reads_input]
        if spec is None or not spec.is_sum or len(operands) < 2:
            return []
        ends = [value for value in operands if len(value.users) == 1]
        return sorted(ends, key=self._position.__getitem__, reverse=True)

    def needed_only_for(self, end: fx.Node) -> list[fx.Node]:
        """Return the nodes whose values only `end` needs, itself last, in the order computed."""
        needed = {end}
        waiting = [end]
        while waiting:
            for value in waiting.pop().all_input_nodes:
                is_input = value.op == "placeholder"
                if value in needed or is_input or any(user not in needed for user in value.users):
                    continue
                needed.add(value)
                waiting.append(value)
        return sorted(needed, key=self._position.__getitem__)

    def groups_within(self, nodes: Iterable[fx.Node]) -> tuple[str, ...]:
        """Return the prunable groups whose channels occur in the modules of some nodes alone."""
        tensors: set[str] = set()
        for node in nodes:
            if calls_module(node):
                tensors.update(self.tensors(node))
        names = []
        for group in self.plan.prunable:
            if self._tensors_of_group[group.name] <= tensors:
                names.append(group.name)
        return tuple(names)


def calls_module(node: fx.Node) -> bool:
    """Return whether a node calls a module."""
    return node.op == "call_module"


def layer_name(node: fx.Node) -> str:
    """Return the name of a module that is called, or of the node."""
    return str(node.target) if calls_module(node) else node.name


def _reading_input(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Return the nodes whose values depend on the network's input."""
    reading: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(value in reading for value in node.all_input_nodes):
            reading.add(node)
    return reading


def _bound_groups(
    plan: ChannelPlan,
) -> tuple[dict[tuple[str, int], set[str]], dict[str, set[str]]]:
    """Return (tensor, axis) -> its groups, and group -> the tensors that hold its channels."""
    group_of_channel = [_PINNED] * (plan.size + 1)
    tensors: dict[str, set[str]] = {}
    for group in plan.prunable:
        group_of_channel[group.span] = [group.name] * group.width
        tensors[group.name] = set()
    groups: dict[tuple[str, int], set[str]] = {}
    for axis in plan.axes:
        names = {group_of_channel[index] for index in torch.unique(axis.index).tolist()}
        groups[axis.tensor, axis.dim] = names
        for name in names - {_PINNED}:
            tensors[name].add(axis.tensor)
    return groups, tensors


def is_single_number(value: object) -> bool:
    """Return whether a value for the example is a number or a tensor of one."""
    return not isinstance(value, Tensor) or value.numel() == 1
