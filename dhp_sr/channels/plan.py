"""The frozen channel plan: dependency groups, and which axes of which tensors they prune."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import torch
from torch import Tensor

from dhp_sr.channels.kept_channels import KeptCall, KeptChannels
from dhp_sr.graph.capture import ArgPath


@dataclass(frozen=True)
class Group:
    """A dependency group: each element stands for channels that are pruned together."""

    name: str
    """The layer that first creates the channels."""
    width: int
    """Number of elements."""
    prunable: bool
    reason: str
    """Why the group is pinned (non-prunable); empty for a prunable group."""
    members: tuple[str, ...]
    """All layers that create channels of the group."""
    start: int
    """Offset in the flat vector of all prunable channels; -1 for a pinned group."""
    nonlinearity_fraction: float
    """Activations per layer that creates the channels, at most 1; 0 for channels that no activation
    follows, such as the residual channels of EDSR."""
    channels_per_element: tuple[int, ...] = (1,)
    """Numbers of layer channels that an element controls, ascending: (1, r**2) for the channels of
    a PixelShuffle, which are r**2 before it and 1 behind it."""
    removable: bool = False
    """Whether all elements may be pruned at once, with the residual branch that they are in."""
    removal_reason: str = ""
    """Why a prunable group cannot be removed; empty for a removable group."""

    @property
    def span(self) -> slice:
        """The group's slice of the flat vector of all prunable channels."""
        return slice(self.start, self.start + self.width)


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter or buffer."""

    tensor: str
    """Name as in the state dict."""
    dim: int
    index: Tensor
    """(length,) for each entry its channel in the flat vector, or the vector's length where it is
    pinned."""


@dataclass(frozen=True)
class Layer:
    """A layer with a weight whose multiply-adds are counted."""

    weight: str
    """Name of the weight, as in the state dict."""
    kind: str
    """conv, transposed conv or linear; product for what has no weight, such as the product of two
    features."""
    positions: int
    """Number of multiplications of each entry of the weight, for a sample of the example's
    size."""
    shape: tuple[int, ...]
    """Shape of the weight."""
    out_dim: int
    """Axis of the weight that holds the output channels."""
    output_elements: int
    """Size of the layer's output for a sample of the example's size, summed over its calls."""

    @property
    def macs(self) -> int:
        """Multiply-adds at full width."""
        return self.positions * math.prod(self.shape)


@dataclass(frozen=True)
class SizePatch:
    """An argument in the forward that is a number of channels, or a list of such numbers."""

    node: str
    """Name of the node in the trace."""
    path: ArgPath
    """Path to the argument among those of the node."""
    counted: tuple[Tensor, ...]
    """For each number, indices of the counted channels in the flat vector; its length stands for
    pinned channels."""
    is_list: bool

    @property
    def name(self) -> str:
        """Address of the number: the node, and the path to its argument."""
        return ".".join([self.node, *map(str, self.path)])

    def kept_size(self, padded: Tensor) -> int | list[int]:
        """Return the number, or numbers, to write for a mask.

        Args:
            padded: (plan.size + 1,) True for kept channels, with True at the end for pinned
                ones.
        """
        sizes = [int(padded[index].sum()) for index in self.counted]
        return sizes if self.is_list else sizes[0]


class Leaves(StrEnum):
    """Remainder of a layer of a removed branch, in its place."""

    NOTHING = "nothing"
    """A map without channels."""
    BIAS = "bias"
    """A constant for each channel, which is trained as the layer's bias was."""
    BUFFER = "buffer"
    """A constant of a layer without bias."""


@dataclass(frozen=True)
class BranchLayer:
    """A module of a residual branch, which a `ConstantMap` replaces once the branch is removed."""

    name: str
    leaves: Leaves
    strides: tuple[int, ...]
    """Stride along each axis behind the channels; empty where the channels come last."""
    channel_axis: tuple[str, int] | None
    """(tensor, axis) whose kept entries are the channels of the module's output; None where the
    plan binds no axis to them."""


@dataclass(frozen=True)
class Branch:
    """A residual branch that can be removed: what is left of it is a constant."""

    groups: tuple[str, ...]
    """Its own channels: prunable groups that must go to width 0 together."""
    layers: tuple[BranchLayer, ...]
    """Its modules with weights, in the order of the forward."""
    own_axis: tuple[str, int]
    """(tensor, axis) that holds nothing but channels of its groups: 0 where it is removed."""

    @cached_property
    def _kept_tensors(self) -> dict[str, str]:
        """Module -> the tensor of it that is left as the constant, if any."""
        kept = {}
        for layer in self.layers:
            kept[layer.name] = f"{layer.name}.bias" if layer.leaves is Leaves.BIAS else ""
        return kept

    def drops(self, tensor: str) -> bool:
        """Return whether a parameter goes with the branch."""
        module = tensor.rpartition(".")[0]
        return module in self._kept_tensors and self._kept_tensors[module] != tensor


def append_pinned(mask: Tensor) -> Tensor:
    """Append to a mask (plan.size,) the entry that all pinned channels have: kept."""
    return torch.cat((mask.cpu(), torch.ones(1, dtype=torch.bool)))


@dataclass(frozen=True)
class ChannelPlan:
    """Everything that conversion, allocation and cut need to know of a network."""

    groups: tuple[Group, ...]
    axes: tuple[Axis, ...]
    layers: tuple[Layer, ...]
    parameters: dict[str, tuple[int, ...]]
    """Shape of every parameter."""
    constants: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape of every buffer that is the weight of a layer, such as the kernel of a blur; and of
    every product of features, which costs as a weight of this shape would."""
    size_patches: tuple[SizePatch, ...] = ()
    """Numbers of prunable channels that are written in the forward."""
    checks: tuple[str, ...] = ()
    """Nodes that check numbers of prunable channels, as by `assert`."""
    example_shape: tuple[int, ...] = ()
    """Shape of the example input, the image of several inputs."""
    further_inputs: tuple[Tensor, ...] = ()
    """The other inputs of a network that takes several, as in the first sample of the example."""
    training_time_form: bool = False
    """Whether the form of a re-parameterizable network that has several branches was traced."""
    kept_statistics: tuple[KeptChannels, ...] = ()
    """Layers with statistics over channels that can be pruned. With some of them masked, these are
    taken over the others: the pruned network is another than with zeros in these channels."""
    kept_calls: tuple[KeptCall, ...] = ()
    """Calls of functions with such statistics, as a mean over channels."""
    branches: tuple[Branch, ...] = ()
    """Residual branches that can be removed; one may be part of another."""

    @cached_property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Shape of all that costs: parameters, and buffers that are weights."""
        return {**self.parameters, **self.constants}

    @cached_property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that can be pruned."""
        return tuple(group for group in self.groups if group.prunable)

    @cached_property
    def size(self) -> int:
        """Number of prunable channels: length of the flat vector."""
        return self.prunable[-1].span.stop if self.prunable else 0

    @property
    def has_kept_statistics(self) -> bool:
        """Whether any statistics are taken over the kept channels."""
        return bool(self.kept_statistics or self.kept_calls)

    def kept_channels_of_calls(self, mask: Tensor) -> dict[str, tuple[KeptCall, Tensor]]:
        """Return the calls that a mask (plan.size,) narrows: node -> call, kept channels."""
        padded = append_pinned(mask)
        narrowed = {}
        for call in self.kept_calls:
            kept = call.kept(padded)
            if kept is not None:
                narrowed[call.node] = (call, kept)
        return narrowed

    def removed_branches(self, mask: Tensor) -> tuple[Branch, ...]:
        """Return the branches of which a mask (plan.size,) keeps no channel.

        Of branches inside each other the outermost alone.

        Raises:
            ValueError: The mask keeps no channel of a group that cannot be removed, or not so
                without others.
        """
        empty = {group.name for group in self.prunable if not bool(mask[group.span].any())}
        # Nearly every mask, and the many that a search looks at.
        if not empty:
            return ()
        removed: list[Branch] = []
        covered: set[str] = set()
        for branch in self.branches:
            # A branch goes when all of its groups are empty: with some of them left, the others
            # would leave layers without inputs or outputs inside it.
            if empty.issuperset(branch.groups):
                removed.append(branch)
                covered.update(branch.groups)
        for group in self.prunable:
            if group.name in empty - covered:
                raise ValueError(
                    f"the mask of {group.name} keeps no channel: {self._refusal(group)}"
                )
        outermost: list[Branch] = []
        for branch in removed:
            # The constant of a larger branch holds what the one inside it would leave.
            if not any(set(branch.groups) < set(other.groups) for other in removed):
                outermost.append(branch)
        return tuple(outermost)

    def _refusal(self, group: Group) -> str:
        """Return why a group cannot be removed, or not without others."""
        if not group.removable:
            return group.removal_reason
        others: list[str] = []
        for branch in self.branches:
            # The first branch is the smallest one with this group: inner sums come first.
            if group.name in branch.groups:
                others = [name for name in branch.groups if name != group.name]
                break
        return f"it is removed together with {', '.join(others)}"

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Return group name -> its entries of a vector (size,), for the prunable groups."""
        return {group.name: flat[group.span] for group in self.prunable}

    def join(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Concatenate a vector for each prunable group into a vector of shape (size,).

        Args:
            vectors: Group name -> (width,).

        Raises:
            ValueError: A group has no vector, or a vector of another length or that is not finite.
        """
        joined: list[Tensor] = []
        for group in self.prunable:
            vector = vectors.get(group.name, torch.empty(0))
            shape = tuple(vector.shape) if group.name in vectors else "none"
            if shape != (group.width,) or not torch.isfinite(vector).all():
                raise ValueError(
                    f"{group.name}: expected finite numbers of shape ({group.width},), "
                    f"found {shape}"
                )
            joined.append(vector)
        if not joined:
            return torch.zeros(0)
        return torch.cat(joined)
