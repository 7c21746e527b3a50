"""Build the channel plan of a network: trace, analyze, gather coupled channels into groups.

In the plan all that was channel ids is indices into the flat vector of all prunable channels, see
`dependency_groups`; its length stands for pinned channels:

    channel ids                0 1 2 (image)    3 4 5 6 (conv1)    7 8 9 10 (conv2, added to conv1)
    roots                      0 1 2            3 4 5 6            3 4 5 6
    flat index                 4 4 4            0 1 2 3            0 1 2 3
    conv2.weight axis 0        ids 7 8 9 10  -> index 0 1 2 3
    conv1.weight axis 1        ids 0 1 2     -> index 4 4 4        pinned: the input of the network
"""

import contextlib
import math
from collections.abc import Container, Mapping, Sequence

import torch
from torch import Tensor, nn

from dhp_sr.channels.analysis import analyze_channels
from dhp_sr.channels.branches import with_branches
from dhp_sr.channels.dependency_groups import gather_groups, with_channels_per_element
from dhp_sr.channels.kept_channels import KeptCall, KeptChannels
from dhp_sr.channels.plan import Axis, ChannelPlan, Layer, SizePatch
from dhp_sr.graph.capture import check_capture, trace
from dhp_sr.graph.trace_errors import TraceError
from dhp_sr.operators.analysis_context import AnalysisContext, ChannelRange
from dhp_sr.utils.network_io import Example, first_samples, inputs_of

# A table of positions is computed with, too, and is the same in both modes: hence not zero.
_LARGE_SHARE = 0.05
"""Fraction of the parameters that a forward may compute with before training mode is tried."""


def make_plan(
    network: nn.Module,
    example_input: Example,
    exclude: Sequence[str] = (),
    *,
    prune_residual: bool = True,
    kept_statistics: bool = True,
) -> ChannelPlan:
    """Plan how a network can be pruned.

    A forward that cannot be traced in evaluation mode, or leaves nothing to prune there because it
    first fuses its branches (a re-parameterizable network), is traced in training mode.

    Args:
        network: Any traceable network; it is left as it was.
        example_input: An input batch, (N, C, H, W), or a tuple of the network's inputs; MACs are
            counted at its size, per sample.
        exclude: Names or patterns (`body.*`) of layers whose output channels are pinned.
        prune_residual: Whether channels coupled by residual additions may be pruned.
        kept_statistics: Whether statistics over channels, of normalizations and of weights that are
            standardized, are over the kept ones before the cut, too; else such channels are pinned.

    Raises:
        TraceError: The network cannot be traced or run.
        UserError: A pattern names no layer, or the example does not consist of tensors.
    """

    def plan_in_mode(
        training: bool, evaluation: AnalysisContext | None = None
    ) -> tuple[ChannelPlan, AnalysisContext]:
        traced = trace(network, example_input, training, join_computed_weights=True)
        if not training:
            check_capture(network, traced, example_input)
        analysis = analyze_channels(
            network,
            traced,
            (exclude,) if isinstance(exclude, str) else exclude,
            prune_residual=prune_residual,
            kept_statistics=kept_statistics,
            evaluation=evaluation,
        )
        return with_branches(freeze(analysis, example_input, training), traced), analysis

    try:
        plan, analysis = plan_in_mode(training=False)
    except TraceError:
        with contextlib.suppress(TraceError):
            return plan_in_mode(training=True)[0]
        raise
    fused = analysis.tensors_of_fused_weights()
    share_read = _share_of_parameters({*analysis.read_as_values, *fused}, analysis.shapes)
    if not plan.prunable or share_read > _LARGE_SHARE:
        with contextlib.suppress(TraceError):
            training_plan, training_analysis = plan_in_mode(training=True, evaluation=analysis)
            is_better = _prunable_share(training_plan) > _prunable_share(plan)
            # A normalization beside a layer, say, may belong to other channels in training.
            has_other_form = not fused <= training_analysis.tensors_of_fused_weights()
            if is_better or (has_other_form and training_plan.prunable):
                return training_plan
    return plan


def _share_of_parameters(names: Container[str], shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the fraction of all entries of parameters that is in those with some names."""
    total = 0
    chosen = 0
    for name, shape in shapes.items():
        entries = math.prod(shape)
        total += entries
        if name in names:
            chosen += entries
    return chosen / max(1, total)


def _prunable_share(plan: ChannelPlan) -> float:
    """Return the fraction of the parameters that have an axis of prunable channels."""
    prunable = set()
    for axis in plan.axes:
        if bool((axis.index < plan.size).any()):
            prunable.add(axis.tensor)
    return _share_of_parameters(prunable, plan.parameters)


def freeze(analysis: AnalysisContext, example_input: Example, training: bool) -> ChannelPlan:
    """Return the plan that an analysis leads to."""
    image = inputs_of(example_input)[0]
    groups, position_of_root = gather_groups(analysis)
    size = len(position_of_root)
    flat_index = flat_index_of_ids(analysis, position_of_root)
    axes = []
    # With the number of times that a layer has the channels of each axis.
    indices = []
    for (tensor, dim), ids in analysis.axes.items():
        index = flat_index[ids]
        axes.append(Axis(tensor, dim, index))
        indices.append((index, analysis.weight_groups.get((tensor, dim), 1)))
    constants = {}
    for name in analysis.layers:
        if name in analysis.buffers:
            constants[name] = tuple(analysis.buffers[name].shape)
        if name in analysis.products:
            constants[name] = analysis.products[name]
    return ChannelPlan(
        groups=with_channels_per_element(groups, indices, size),
        axes=tuple(axes),
        layers=layers_of(analysis),
        parameters=dict(analysis.shapes),
        constants=constants,
        size_patches=size_patches_of(analysis, flat_index, size),
        checks=checks_of(analysis, flat_index, size),
        example_shape=tuple(image.shape),
        further_inputs=first_samples(example_input)[1:],
        training_time_form=training,
        kept_statistics=kept_statistics_of(analysis, flat_index, size),
        kept_calls=kept_calls_of(analysis, flat_index, size),
    )


def flat_index_of_ids(analysis: AnalysisContext, position_of_root: Mapping[int, int]) -> Tensor:
    """Return the index of every channel id in the flat vector, its length for pinned channels."""
    size = len(position_of_root)
    index_of_root = torch.full((len(analysis.union_find.producer),), size)
    positions = torch.tensor(list(position_of_root.values()), dtype=torch.long)
    index_of_root[list(position_of_root)] = positions
    # Every id has the position of its root.
    return index_of_root[analysis.union_find.roots()]


def layers_of(analysis: AnalysisContext) -> tuple[Layer, ...]:
    """Return the layers whose multiply-adds are counted, in the order of the forward."""
    layers = []
    for name, calls in analysis.layers.items():
        shape = analysis.shapes.get(name)
        if name in analysis.products:
            shape = analysis.products[name]
        elif shape is None:  # the weight is a buffer
            shape = tuple(analysis.buffers[name].shape)
        layers.append(
            Layer(
                weight=name,
                kind=calls.kind,
                positions=calls.positions,
                shape=shape,
                out_dim=calls.out_dim,
                output_elements=calls.output_elements,
            )
        )
    return tuple(layers)


def kept_statistics_of(
    analysis: AnalysisContext, flat_index: Tensor, size: int
) -> tuple[KeptChannels, ...]:
    """Return the layers with statistics over channels of which some can be pruned."""
    layers = []
    for name, axes in analysis.kept_statistics.items():
        inputs = {axis: flat_index[ids] for axis, ids in axes.inputs.items()}
        tensors = {axis: flat_index[ids] for axis, ids in axes.tensors.items()}
        index = flat_index[axes.output]
        everything = torch.cat([index, *inputs.values(), *tensors.values()])
        if bool((everything < size).any()):
            layers.append(KeptChannels(name, inputs, tensors, axes.out_dim, index))
    return tuple(layers)


def kept_calls_of(analysis: AnalysisContext, flat_index: Tensor, size: int) -> tuple[KeptCall, ...]:
    """Return the calls with statistics over channels of which some can be pruned.

    And those from the same place in the source, which one module inside another may run as well.
    """
    calls: list[KeptCall] = []
    sites = set()
    for node, call in analysis.kept_calls.items():
        index = flat_index[call.channels]
        calls.append(
            KeptCall(
                node=node,
                module=call.module,
                site=call.site,
                operator=call.operator,
                dim=call.dim,
                index=index,
                returns_channels=call.returns_channels,
                zeroed=call.zeroed,
                vectors=call.vectors,
                shape_at=call.shape_at,
            )
        )
        if bool((index < size).any()):
            sites.add(call.site)
    return tuple(call for call in calls if call.site in sites)


def checks_of(analysis: AnalysisContext, flat_index: Tensor, size: int) -> tuple[str, ...]:
    """Return the nodes that check numbers of channels of which some can be pruned."""
    names = []
    for name, ids in analysis.checks.items():
        if bool((flat_index[ids] < size).any()):
            names.append(name)
    return tuple(names)


def size_patches_of(
    analysis: AnalysisContext, flat_index: Tensor, size: int
) -> tuple[SizePatch, ...]:
    """Return the hard-coded sizes of all nodes that depend on a prunable channel.

    All sizes of such a node are kept, since one call must be rewritten as a whole. A node without
    such a size, such as `x.view(n, 3, h, w)` of an image, needs none.
    """
    patches: list[SizePatch] = []
    # Nodes with a size that a cut may change.
    nodes_to_rewrite: set[str] = set()
    for hardcoded in analysis.hardcoded_sizes:
        ranges = hardcoded.counted
        is_list = isinstance(ranges, list)
        if isinstance(ranges, ChannelRange):
            ranges = [ranges]
        # For each number of the argument, the channels that it counts.
        counted: list[Tensor] = []
        for channel_range in ranges:
            counted.append(counted_channels(channel_range, flat_index, size))
        involved = torch.cat(counted)
        # The size of a batch, say: whatever it is, the forward comes to it by itself.
        if hardcoded.follows_input and not bool((involved < size).any()):
            continue
        patches.append(SizePatch(hardcoded.node, hardcoded.path, tuple(counted), is_list))
        # A size may be computed from a number of channels without counting any itself.
        if hardcoded.read_from is not None:
            involved = torch.cat((involved, flat_index[hardcoded.read_from]))
        if bool((involved < size).any()):
            nodes_to_rewrite.add(hardcoded.node)
    needed: list[SizePatch] = []
    for patch in patches:
        if patch.node in nodes_to_rewrite:
            needed.append(patch)
    return tuple(needed)


def counted_channels(counted: ChannelRange, flat_index: Tensor, size: int) -> Tensor:
    """Return the flat indices of the channels in a range, such as the first 16 of 64."""
    # One for each entry along the axis. After the analysis a value varies along a single axis, so
    # at any position of the others the entries are the same, or all alike.
    entries = flat_index[counted.ids].movedim(counted.dim, 0)
    entries = entries.reshape(len(entries), -1)[:, 0]
    # All alike, or not even told apart: the channels lie along another axis, and a cut leaves this
    # one as long as it is. Its entries count like pinned ones.
    if len(entries) != counted.size or bool((entries == entries[0]).all()):
        entries = torch.full((counted.size,), size)
    return entries[slice(*counted.bounds)]
