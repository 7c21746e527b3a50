"""A traced network as the search for removable branches sees it: modules, tensors, channels."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.graph.capture import TracedNetwork
from dhp_sr.operators.computed_layers import COMPUTED_LAYER
from dhp_sr.operators.registry import spec_for
from dhp_sr.operators.spec import Activation, OpSpec
from dhp_sr.utils.modules import canonical_names

_PINNED = ""
"""Stands for pinned channels among the groups of an axis."""

_RUN_ON_NO_CHANNELS = frozenset(
    (
        *("identity", "dropout", "copy", "cast", "prelu", "adaptive pooling", "mean or sum"),
        *("add", "subtract", "multiply", "divide", "abs", "square", "exp", "negation", "chunk"),
    )
)
"""Operators, beside activations, that give a map without channels for a map without channels."""


class BranchGraph:
    """The graph of a network, with the channels that its plan binds to tensors.

    Args:
        traced: The network, as its plan was made of it.
        plan: Its plan.
    """

    def __init__(self, traced: TracedNetwork, plan: ChannelPlan) -> None:
        self.plan = plan
        self.values = traced.values
        self.nodes = list(traced.graph_module.graph.nodes)
        # A module may be registered under several names, and each of them may be called.
        self._modules = dict(traced.graph_module.named_modules(remove_duplicate=False))
        self._num_names = Counter(canonical_names(traced.graph_module).values())
        self._position: dict[fx.Node, int] = {}
        self._num_calls: Counter[nn.Module] = Counter()
        self._reads_input: set[fx.Node] = set()
        # The nodes are in the order of the forward: all that a node reads has been seen before it.
        for position, node in enumerate(self.nodes):
            self._position[node] = position
            if calls_module(node):
                self._num_calls[self.module(node)] += 1
            is_input = node.op == "placeholder"
            if is_input or not self._reads_input.isdisjoint(node.all_input_nodes):
                self._reads_input.add(node)
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
        # What the analysis counts for a node beside its weights is named after it, with brackets.
        return is_function or f"{node.name}()" in self.plan.weights

    def computes_weights(self, node: fx.Node) -> bool:
        """Return whether a node calls a module that computes the weight of a layer."""
        return self.spec(node) is COMPUTED_LAYER

    def takes_statistics(self, node: fx.Node) -> bool:
        """Return whether a node calls a function with statistics over channels."""
        return any(call.node == node.name for call in self.plan.kept_calls)

    def tensors(self, node: fx.Node) -> list[str]:
        """Return the names of the parameters and buffers of the module that a node calls."""
        names = []
        module = self.module(node)
        for name, _ in (*module.named_parameters(), *module.named_buffers()):
            names.append(f"{node.target}.{name}")
        return names

    def _tensors_within(self, nodes: Iterable[fx.Node]) -> set[str]:
        """Return the names of the tensors of all modules that some nodes call."""
        tensors: set[str] = set()
        for node in nodes:
            if calls_module(node):
                tensors.update(self.tensors(node))
        return tensors

    def is_called_once(self, node: fx.Node) -> bool:
        """Return whether no other node calls the module."""
        return self._num_calls[self.module(node)] == 1

    def shares_tensor(self, node: fx.Node) -> bool:
        """Return whether another module holds one of the module's tensors, too."""
        # Counted by first names: a tensor that is not shared has a single name, which is its first.
        return any(self._num_names[name] != 1 for name in self.tensors(node))

    def has_only(self, axis: tuple[str, int], groups: Iterable[str]) -> bool:
        """Return whether an axis of a tensor holds channels of these groups and no others."""
        return self._groups_of_axis.get(axis, {_PINNED}).issubset(groups)

    def is_bound(self, axis: tuple[str, int]) -> bool:
        """Return whether the plan knows the channels along an axis of a tensor."""
        return axis in self._groups_of_axis

    def channel_dim(self, node: fx.Node) -> int | None:
        """Return the axis of the channels of a normalization or PReLU, counted from the back.

        None for other modules, of which it is not known.
        """
        for norm in self.plan.kept_statistics:
            if norm.layer == node.target:
                return norm.dim
        module = self.module(node)
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            return -1
        if isinstance(module, (_NormBase, nn.GroupNorm, nn.PReLU)):
            return 1 - self.values[node].dim()
        return None

    def runs_on_no_channels(self, node: fx.Node) -> bool:
        """Return whether an operator gives a map without channels for a map without channels."""
        spec = self.spec(node)
        if spec is None:
            return False
        # An index picks one of the results of a chunk; of a map it would be a slice.
        if spec.name == "getitem":
            return isinstance(self.values[node.all_input_nodes[0]], (tuple, list))
        return spec.activation is not Activation.NONE or spec.name in _RUN_ON_NO_CHANNELS

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """Return the operands of a sum that nothing else reads, the last computed first.

        An empty list where the node is no sum, or adds a constant.
        """
        spec = self.spec(node)
        if spec is None or not spec.is_sum:
            return []
        num_computed = 0
        ends = []
        for value in node.all_input_nodes:
            if value not in self._reads_input:
                continue
            num_computed += 1
            # Others would read the map without channels, too.
            if len(value.users) == 1:
                ends.append(value)
        if num_computed < 2:
            return []
        # The branch of a residual block is computed after its shortcut, as a rule.
        return sorted(ends, key=self._position.__getitem__, reverse=True)

    def needed_only_for(self, end: fx.Node) -> list[fx.Node]:
        """Return the nodes whose values only `end` needs, itself last, in the order computed."""
        needed = {end}
        waiting = [end]
        while waiting:
            for value in waiting.pop().all_input_nodes:
                # A value with further users is looked at again from each of them, and is taken in
                # when all of them are.
                if (
                    value.op == "placeholder"
                    or value in needed
                    or not needed.issuperset(value.users)
                ):
                    continue
                needed.add(value)
                waiting.append(value)
        return sorted(needed, key=self._position.__getitem__)

    def groups_within(self, nodes: Iterable[fx.Node]) -> tuple[str, ...]:
        """Return the prunable groups whose channels occur in the modules of some nodes alone."""
        tensors = self._tensors_within(nodes)
        names = []
        for group in self.plan.prunable:
            if self._tensors_of_group[group.name] <= tensors:
                names.append(group.name)
        return tuple(names)

    def holds_all_layers(self, nodes: Iterable[fx.Node]) -> bool:
        """Return whether some nodes call all layers of the network."""
        tensors = self._tensors_within(nodes)
        return all(layer.weight in tensors for layer in self.plan.layers)


def calls_module(node: fx.Node) -> bool:
    """Return whether a node calls a module."""
    return node.op == "call_module"


def layer_name(node: fx.Node) -> str:
    """Return the name of a module that is called, or of the node."""
    return str(node.target) if calls_module(node) else node.name


def _bound_groups(
    plan: ChannelPlan,
) -> tuple[dict[tuple[str, int], set[str]], dict[str, set[str]]]:
    """Return (tensor, axis) -> its groups, and group -> the tensors that hold its channels."""
    # One entry more than there are prunable channels: that of all pinned ones.
    group_of_channel = [_PINNED] * (plan.size + 1)
    tensors: dict[str, set[str]] = {}
    for group in plan.prunable:
        group_of_channel[group.span] = [group.name] * group.width
        tensors[group.name] = set()
    groups: dict[tuple[str, int], set[str]] = {}
    for axis in plan.axes:
        names = set()
        for channel in torch.unique(axis.index).tolist():
            names.add(group_of_channel[channel])
        groups[axis.tensor, axis.dim] = names
        for name in names - {_PINNED}:
            tensors[name].add(axis.tensor)
    return groups, tensors


def is_single_number(value: object) -> bool:
    """Return whether a value for the example is a number or a tensor of one."""
    return not isinstance(value, Tensor) or value.numel() == 1


def keeps_positions(layer: _ConvNd) -> bool:
    """Return whether a convolution has an output at every `stride`-th position of its input."""
    if isinstance(layer, _ConvTransposeNd):
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same"
    # Padded by half of what the kernel spans on either side, along every axis.
    for size, before, gap in zip(layer.kernel_size, layer.padding, layer.dilation, strict=True):
        if 2 * before != gap * (size - 1):
            return False
    return True
