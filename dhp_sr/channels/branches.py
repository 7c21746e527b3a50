"""Residual branches that can be removed as a whole, found in the traced graph.

    shortcut ------------------------------------> + --> read by all that follows
       '---> conv1 --> relu --> conv2 --> norm ---^
                 '----------------'
             the branch's own channels

A group of channels that is produced and read inside the branch alone may be pruned to width 0. The
layers that read it then compute a constant, their bias: nothing in the branch depends on the input
any more. A `ConstantMap` takes the place of each of its layers; one of them holds the constant that
is left, the others nothing. Where that would not be exact, or would leave multiply-adds behind, the
branch stays, and the plan says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from dhp_sr.channels.branch_graph import (
    BranchGraph,
    calls_module,
    is_single_number,
    keeps_positions,
    layer_name,
)
from dhp_sr.channels.plan import Branch, BranchLayer, ChannelPlan, Leaves
from dhp_sr.graph.capture import TracedNetwork
from dhp_sr.utils.modules import out_dim

OUTSIDE = "not the inner channels of a residual branch"
"""Reason of groups that no branch has to itself."""


class NotRemovable(Exception):
    """A branch must stay, with the text as the reason."""


@dataclass(frozen=True)
class RemovableBranches:
    """Branches that can be removed, and why the other groups stay."""

    branches: tuple[Branch, ...]
    reasons: Mapping[str, str]
    """Prunable group that no branch can be removed with -> reason."""


def with_branches(plan: ChannelPlan, traced: TracedNetwork) -> ChannelPlan:
    """Return the plan with the residual branches that can be removed."""
    if plan.training_time_form:
        # The constant is that of evaluation mode, in which the forward has no such layers.
        names = [group.name for group in plan.prunable]
        removable = RemovableBranches(
            (), dict.fromkeys(names, "the network has another form in training")
        )
    else:
        removable = find_branches(traced, plan)
    groups = []
    for group in plan.groups:
        if group.prunable:
            reason = removable.reasons.get(group.name, "")
            group = replace(group, removable=not reason, removal_reason=reason)
        groups.append(group)
    return replace(plan, groups=tuple(groups), branches=removable.branches)


def find_branches(traced: TracedNetwork, plan: ChannelPlan) -> RemovableBranches:
    """Find the residual branches of a network that can be removed.

    Of every sum a single operand may be removed, so that some path from the input to the output
    is left whatever is removed.

    Args:
        traced: The network, as its plan was made of it.
        plan: Its plan.
    """
    graph = BranchGraph(traced, plan)
    branches: list[Branch] = []
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        branch = _first_removable(graph, node, reasons)
        if branch is not None:
            branches.append(branch)
    for group in plan.prunable:
        reasons.setdefault(group.name, OUTSIDE)
    # A branch may be part of a larger one that must stay.
    for branch in branches:
        for name in branch.groups:
            reasons.pop(name, None)
    return RemovableBranches(tuple(branches), reasons)


def _first_removable(graph: BranchGraph, node: fx.Node, reasons: dict[str, str]) -> Branch | None:
    """Return the branch of the first operand of a sum that can be removed.

    Args:
        graph: Graph of the network.
        node: Any node; other than sums have no such operands.
        reasons: Group -> why it stays; those of the operands that must stay are added.
    """
    for end in graph.operands(node):
        candidate = _Candidate(graph, end)
        try:
            return candidate.branch()
        except NotRemovable as error:
            # The first branch that a group could have gone with gives the reason.
            for name in candidate.groups:
                reasons.setdefault(name, str(error))
    return None


class _State(Enum):
    """State of a value inside a branch once the branch's own channels are masked."""

    VARYING = "depends on the input"
    OWN = "has the branch's own channels, of which nothing is read"
    CONSTANT = "the same for every input"


class _Candidate:
    """An operand of a sum, with all that is computed for it alone.

    The branch of the module's docstring can be removed:

        node     state       replaced    left in its place
        conv1    OWN         yes         nothing
        relu     OWN         no          (runs on a map without channels)
        conv2    CONSTANT    yes         nothing, as norm is replaced, too
        norm     CONSTANT    yes         bias: what the sum reads

    Args:
        graph: Graph of the network.
        end: The node that computes the operand.
    """

    def __init__(self, graph: BranchGraph, end: fx.Node) -> None:
        self._graph = graph
        self._nodes = graph.needed_only_for(end)
        self.groups = graph.groups_within(self._nodes)
        """Groups whose channels occur in the branch alone."""
        self._states: dict[fx.Node, _State] = {}
        self._leaves: dict[fx.Node, Leaves] = {}
        """Module that is replaced -> what it leaves in its place."""

    def branch(self) -> Branch:
        """Return the branch.

        Raises:
            NotRemovable: It must stay.
        """
        if not self.groups:
            raise NotRemovable("it has no channels of its own")
        # As in a network that adds all that it computes to an enlarged input.
        if self._graph.holds_all_layers(self._nodes):
            raise NotRemovable("its branch holds all layers of the network")
        for node in self._nodes:
            self._states[node] = self._state(node)
        end = self._nodes[-1]
        if self._states[end] is not _State.CONSTANT:
            raise NotRemovable(f"without it, {layer_name(end)} still depends on the input")
        replaced: list[fx.Node] = []
        for node in self._nodes:
            if self._is_replaced(node):
                self._check_module(node)
                replaced.append(node)
        for node in replaced:
            self._leaves[node] = self._left_of(node, replaced)
        self._check_operators()
        layers: list[BranchLayer] = []
        for node in replaced:
            layers.append(self._layer(node))
        return Branch(self.groups, tuple(layers), self._own_axis(replaced))

    def _state(self, node: fx.Node) -> _State:
        """Return the state of a node's value once the branch's own channels are masked."""
        if self._graph.has_product(node):
            raise NotRemovable(f"{layer_name(node)} multiplies by what no layer of it holds")
        if self._graph.takes_statistics(node):
            raise NotRemovable(f"{layer_name(node)} takes statistics over its channels")
        if self._graph.computes_weights(node):
            raise NotRemovable(f"{layer_name(node)} computes its weights")
        if self._graph.is_layer(node):
            return self._state_of_layer(node)
        inputs = set()
        for value in node.all_input_nodes:
            # Scales and shifts are parameters: a constant times a scale is a constant.
            if value.op != "get_attr":
                # What is computed outside the branch depends on the input.
                inputs.add(self._states.get(value, _State.VARYING))
        if not inputs:
            return _State.CONSTANT if node.op == "get_attr" else _State.VARYING
        if len(inputs) == 1:
            return inputs.pop()
        if _State.OWN in inputs:
            raise NotRemovable(f"{layer_name(node)} joins its channels with others")
        return _State.VARYING

    def _state_of_layer(self, node: fx.Node) -> _State:
        """Return the state behind a layer, which must have no multiply-adds left."""
        weight = f"{node.target}.weight"
        dim = out_dim(self._graph.module(node))
        # It has none left once all its output channels are pruned, or all its input channels; in
        # the second case it computes its bias.
        if self._graph.has_only((weight, dim), self.groups):
            return _State.OWN
        if self._graph.has_only((weight, 1 - dim), self.groups):
            return _State.CONSTANT
        raise NotRemovable(f"{node.target} reads and writes channels that others share")

    def _is_replaced(self, node: fx.Node) -> bool:
        """Return whether a `ConstantMap` takes the place of a module in the removed branch."""
        if not calls_module(node) or not self._graph.tensors(node):
            return False
        # Layers, and what has only channels that are gone. Behind a constant a batch normalization,
        # too, which in training would divide by the constant's variance, 0. Other modules with
        # weights, such as a PReLU, stay there and are applied to the constant.
        is_norm = isinstance(self._graph.module(node), _NormBase)
        is_constant = self._states[node] is _State.CONSTANT
        return self._graph.is_layer(node) or is_norm or not is_constant

    def _check_module(self, node: fx.Node) -> None:
        """Refuse modules whose place a `ConstantMap` cannot take."""
        module = self._graph.module(node)
        if not self._graph.is_called_once(node):
            raise NotRemovable(f"{node.target} is called several times")
        if len(node.all_input_nodes) != 1:
            raise NotRemovable(f"{node.target} has several inputs")
        if self._graph.shares_tensor(node):
            raise NotRemovable(f"{node.target} shares a weight with another module")
        # The map of a constant is as high and wide as every `stride`-th position of its input.
        if isinstance(module, _ConvNd) and not keeps_positions(module):
            raise NotRemovable(f"{node.target} changes height and width by other than its stride")

    def _left_of(self, node: fx.Node, replaced: list[fx.Node]) -> Leaves:
        """Return the remainder of a replaced module."""
        # A constant is left where something that stays reads it. The constant of a convolution that
        # a batch normalization alone reads is not: that of the normalization includes it.
        is_read = any(user not in replaced for user in node.users)
        if self._states[node] is not _State.CONSTANT or not is_read:
            return Leaves.NOTHING
        # A layer that had no bias to train gets none to train.
        if dict(self._graph.module(node).named_parameters()).get("bias") is None:
            return Leaves.BUFFER
        return Leaves.BIAS

    def _check_operators(self) -> None:
        """Refuse operators that cannot run on the maps without channels that they will be given."""
        # Nodes whose values will have no channels: replaced ones, then what is computed from them.
        empty: set[fx.Node] = set()
        for node, left in self._leaves.items():
            if left is Leaves.NOTHING:
                empty.add(node)
        for node in self._nodes:
            if node in self._leaves or empty.isdisjoint(node.all_input_nodes):
                continue
            for value in node.all_input_nodes:
                # A single number goes with any number of channels, also with none.
                if value not in empty and not is_single_number(self._graph.values[value]):
                    raise NotRemovable(f"{layer_name(node)} joins its channels with others")
            if not self._graph.runs_on_no_channels(node):
                raise NotRemovable(f"{layer_name(node)} does not take a map without channels")
            empty.add(node)

    def _layer(self, node: fx.Node) -> BranchLayer:
        """Return a replaced module as the plan holds it."""
        module = self._graph.module(node)
        strides: tuple[int, ...] = ()
        if isinstance(module, _ConvNd):
            strides = tuple(module.stride)
        elif not isinstance(module, nn.Linear):
            channel_dim = self._graph.channel_dim(node)
            if channel_dim is None:
                raise NotRemovable(f"it is not known which axis {node.target} works along")
            # Normalizations and PReLU keep every position behind their channels.
            strides = (1,) * (-1 - channel_dim)
        channel_axis = None
        for tensor in self._graph.tensors(node):
            axis = (tensor, out_dim(module))
            if self._graph.is_bound(axis):
                channel_axis = axis
                break
        return BranchLayer(str(node.target), self._leaves[node], strides, channel_axis)

    def _own_axis(self, replaced: list[fx.Node]) -> tuple[str, int]:
        """Return an axis of a weight that holds nothing but channels of the branch."""
        for node in replaced:
            for dim in (0, 1):
                axis = (f"{node.target}.weight", dim)
                if self._graph.has_only(axis, self.groups):
                    return axis
        raise NotRemovable("none of its layers has channels of its own")
