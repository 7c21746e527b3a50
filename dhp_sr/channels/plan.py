"""The frozen plan: groups of channels that live and die together, and which axis of which tensor each owns."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from dhp_sr.channels.analysis import analyze_channels
from dhp_sr.channels.multiplicity import channels_per_element
from dhp_sr.graph.capture import ArgPath, TraceError, trace
from dhp_sr.operators.analysis_context import AnalysisContext, ChannelRange


@dataclass(frozen=True)
class Group:
    """Channels with a common fate: the i-th of every member is kept or cut together."""

    name: str
    """The layer that first produces the channels."""
    width: int
    """How many there are."""
    prunable: bool
    reason: str
    """Why it is pinned; empty for a prunable group."""
    members: tuple[str, ...]
    """All layers that produce channels of the group."""
    start: int
    """Offset in the flat vector of all prunable channels; -1 for a pinned group."""
    nonlinearity_fraction: float
    """Activations that act on the channels, for each layer that produces them, at most 1; 0 for channels that are only
    carried on, such as those of EDSR's stream."""
    channels_per_element: tuple[int, ...] = (1,)
    """How many channels each of them stands for in the layers that have them, see `channels_per_element`; all different numbers."""

    @property
    def span(self) -> slice:
        """The group's part of the flat vector."""
        return slice(self.start, self.start + self.width)


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter or buffer."""

    tensor: str
    """Name as in the state dict."""
    dim: int
    index: Tensor
    """For each entry, its channel in the flat vector, or the vector's length where it is pinned."""


@dataclass(frozen=True)
class Layer:
    """A weight that multiplies."""

    weight: str
    kind: str
    positions: int
    """How often each entry is multiplied, for one sample of the example's size."""
    shape: tuple[int, ...]
    out_dim: int
    """Axis of the weight that holds the output channels."""
    output_elements: int
    """Size of the layer's output for one sample of the example's size, summed over its calls."""

    @property
    def macs(self) -> int:
        """Multiply-adds at full width."""
        return self.positions * math.prod(self.shape)


@dataclass(frozen=True)
class SizePatch:
    """An argument in the forward that states a number of channels, or a list of such numbers."""

    node: str
    """Name of the node in the trace."""
    path: ArgPath
    """Where among the node's arguments."""
    counted: tuple[Tensor, ...]
    """For each number, the channels counted, as places in the flat vector; its length stands for pinned channels."""
    is_list: bool

    def kept_size(self, padded: Tensor) -> int | list[int]:
        """Return the number for masks in the flat vector, one entry True behind them."""
        counted = [int(padded[index].sum()) for index in self.counted]
        return counted if self.is_list else counted[0]


@dataclass(frozen=True)
class ChannelPlan:
    """Everything that conversion, budget and cut need to know of a network."""

    groups: tuple[Group, ...]
    axes: tuple[Axis, ...]
    layers: tuple[Layer, ...]
    parameters: dict[str, tuple[int, ...]]
    """Shape of every parameter."""
    constants: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape of every buffer that is a layer's weight, such as the kernel of a blur."""
    size_patches: tuple[SizePatch, ...] = ()
    """What the forward states in numbers of prunable channels."""
    example_shape: tuple[int, ...] = ()
    """Shape of the example input."""
    training_time_form: bool = False
    """Whether the plan follows what the forward does in training mode."""

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
        return sum(group.width for group in self.prunable)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Return group name -> its entries of a vector (size,), for the prunable groups."""
        return {group.name: flat[group.span] for group in self.prunable}

    def join(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Concatenate a vector for each prunable group into one of shape (size,).

        Args:
            vectors: group name -> (width,).

        Raises:
            ValueError: a group has no vector, one of another length, or one that is not finite.
        """
        for group in self.prunable:
            vector = vectors.get(group.name)
            shape = "none" if vector is None else f"shape {tuple(vector.shape)}"
            fits = vector is not None and tuple(vector.shape) == (group.width,)
            if not fits or not torch.isfinite(vector).all():
                raise ValueError(
                    f"{group.name}: expected finite numbers of shape ({group.width},), found {shape}"
                )
        if not self.prunable:
            return torch.zeros(0)
        return torch.cat([vectors[group.name] for group in self.prunable])


def make_plan(
    network: nn.Module,
    example_input: Tensor,
    exclude: Sequence[str] = (),
    *,
    prune_residual: bool = True,
) -> ChannelPlan:
    """Plan how a network can be pruned.

    A forward that cannot be followed in evaluation mode, or leaves nothing to prune there because it first computes its
    weights from others, is followed in training mode.

    Args:
        network: any traceable network; it is left as it was.
        example_input: one input batch; MACs are counted at its size.
        exclude: names or patterns (`body.*`) of layers whose output channels must stay.
        prune_residual: whether channels coupled by residual additions may be pruned.

    Raises:
        TraceError: the network cannot be traced or run.
        UserError: a pattern names no layer.
    """
    exclude = [exclude] if isinstance(exclude, str) else exclude
    try:
        plan, refused = _plan(network, example_input, exclude, prune_residual, False), None
    except TraceError as error:
        plan, refused = None, error
    if plan is None or not plan.prunable:
        with contextlib.suppress(TraceError):
            other = _plan(network, example_input, exclude, prune_residual, True)
            plan = other if plan is None or other.prunable else plan
    if plan is None:
        raise refused
    return plan


def _plan(
    network: nn.Module,
    example_input: Tensor,
    exclude: Sequence[str],
    prune_residual: bool,
    training: bool,
) -> ChannelPlan:
    analysis = analyze_channels(
        network, trace(network, example_input, training), exclude, prune_residual=prune_residual
    )
    groups, channel_of = _group(analysis)
    size = sum(group.width for group in groups if group.prunable)
    places = torch.full((len(analysis.union_find.producer),), size)
    places[list(channel_of)] = torch.tensor([*channel_of.values()], dtype=torch.long)
    places = places[analysis.union_find.roots()]
    axes = tuple(Axis(tensor, dim, places[ids]) for (tensor, dim), ids in analysis.axes.items())
    groups = _with_units(groups, axes, analysis, size)
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    constants = {
        name: tuple(analysis.buffers[name].shape)
        for name in analysis.positions
        if name in analysis.buffers
    }
    multiplied = {**shapes, **constants}
    layers = tuple(
        Layer(
            name,
            analysis.kinds[name],
            count,
            multiplied[name],
            analysis.out_dims[name],
            analysis.output_elements[name],
        )
        for name, count in analysis.positions.items()
    )
    found = _numbers(analysis, places, size)
    return ChannelPlan(
        groups, axes, layers, shapes, constants, found, tuple(example_input.shape), training
    )


def _with_units(
    groups: Sequence[Group], axes: Sequence[Axis], analysis: AnalysisContext, size: int
) -> tuple[Group, ...]:
    spans = [group.span for group in groups if group.prunable]
    held = [(axis.index, analysis.weight_groups.get((axis.tensor, axis.dim), 1)) for axis in axes]
    found = iter(channels_per_element(spans, held, size))
    return tuple(
        replace(group, channels_per_element=next(found)) if group.prunable else group
        for group in groups
    )


def _numbers(analysis: AnalysisContext, places: Tensor, size: int) -> tuple[SizePatch, ...]:
    """Return the numbers of channels in nodes that have, or read, a prunable one."""
    found, nodes = [], set()
    for hardcoded in analysis.hardcoded_sizes:
        is_list = isinstance(hardcoded.counts, list)
        counts = [
            _counted(one, places, size)
            for one in (hardcoded.counts if is_list else [hardcoded.counts])
        ]
        found.append(SizePatch(hardcoded.node, hardcoded.path, tuple(counts), is_list))
        read = [] if hardcoded.read_from is None else [places[hardcoded.read_from]]
        if any(bool((index < size).any()) for index in [*counts, *read]):
            nodes.add(hardcoded.node)
    return tuple(number for number in found if number.node in nodes)


def _counted(count: ChannelRange, places: Tensor, size: int) -> Tensor:
    """Return the entries counted; those of an axis that does not lose any are given as pinned."""
    entries = places[count.ids].movedim(count.dim, 0).flatten(1)[:, 0]
    if len(entries) != count.size or bool((entries == entries[0]).all()):
        entries = torch.full((count.size,), size)
    return entries[slice(*count.bounds)]


def _group(analysis: AnalysisContext) -> tuple[tuple[Group, ...], dict[int, int]]:
    """Gather classes with the same producers, in the same parts, into groups; returns them and each class's place."""
    reasons, boundaries, activations = (
        analysis.union_find.pin_reasons(),
        analysis.union_find.split_boundaries(),
        analysis.union_find.activations(),
    )
    members: dict[int, dict[str, None]] = {}
    for channel_id, root in enumerate(analysis.union_find.roots().tolist()):
        members.setdefault(root, {})[analysis.union_find.producer[channel_id]] = None
    bundles: dict[tuple, list[int]] = {}
    for root, producers in members.items():
        bundles.setdefault(
            (tuple(producers), boundaries.get(root, ()), root in reasons), []
        ).append(root)
    groups, channel_of, offset, names = [], {}, 0, {}
    multiplying = {weight.rpartition(".")[0] for weight in analysis.kinds}
    for (producers, _, is_pinned), roots in bundles.items():
        reason = (
            reasons[roots[0]]
            if is_pinned
            else ""
            if len(roots) > 1
            else _reason_to_stay(analysis, roots[0])
        )
        start = -1 if reason else offset
        layers = max(1, sum(name in multiplying for name in producers))
        activated = sum(min(1.0, activations[root] / layers) for root in roots) / len(roots)
        groups.append(
            Group(
                _unique(producers[0], names),
                len(roots),
                not reason,
                reason,
                producers,
                start,
                activated,
            )
        )
        if not reason:
            channel_of.update({root: offset + place for place, root in enumerate(roots)})
            offset += len(roots)
    return tuple(groups), channel_of


def _reason_to_stay(analysis: AnalysisContext, root: int) -> str:
    """Return why a group with one latent is kept: it is one channel, or several that the forward never parts."""
    ids = (analysis.union_find.roots() == root).nonzero().flatten().tolist()
    several = len({analysis.union_find.producer[channel_id] for channel_id in ids}) < len(ids)
    return "all its channels are tied to one another" if several else "a single channel"


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"
