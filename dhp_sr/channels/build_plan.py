"""Build the channel plan of a network: trace, analyze, gather coupled channels into groups.

    channel ids           0 1 2   3 4 5   6 7     created layer by layer by the analysis
    their classes (roots) 0 1 2   0 1 2   6 7     conv 2 is added to conv 1: ids 3 to 5 are coupled
    groups                conv1 (3 elements), conv3 (2 elements)
    flat vector           0 1 2 | 3 4             an entry for each element of a prunable group

In the plan all that was channel ids is indices into the flat vector; its length stands for pinned
channels.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dhp_sr.channels.analysis import analyze_channels
from dhp_sr.channels.branches import with_branches
from dhp_sr.channels.plan import Axis, ChannelPlan, Group, KeptChannels, Layer, SizePatch
from dhp_sr.graph.capture import TraceError, check_capture, trace
from dhp_sr.operators.context import AnalysisContext, ChannelRange
from dhp_sr.utils.example import Example, first_samples, inputs_of


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
        network: any traceable network; it is left as it was.
        example_input: an input batch, (N, C, H, W), or a tuple of the network's inputs; MACs are
            counted at its size, per sample.
        exclude: names or patterns (`body.*`) of layers whose output channels are pinned.
        prune_residual: whether channels coupled by residual additions may be pruned.
        kept_statistics: whether normalizations over channels take their statistics over the kept
            channels, before the cut as after it; else such channels are pinned.

    Raises:
        TraceError: the network cannot be traced or run.
        UserError: a pattern names no layer, or the example does not consist of tensors.
    """
    patterns = (exclude,) if isinstance(exclude, str) else exclude
    reads_weights = False

    def plan_in_mode(training: bool) -> ChannelPlan:
        nonlocal reads_weights
        traced = trace(network, example_input, training)
        if not training:
            check_capture(network, traced, example_input)
        analysis = analyze_channels(
            network,
            traced,
            patterns,
            prune_residual=prune_residual,
            kept_statistics=kept_statistics,
        )
        reads_weights = reads_weights or _share_read(analysis) > _LARGE_SHARE
        return with_branches(freeze(analysis, network, example_input, training), traced)

    plan: ChannelPlan | None = None
    refusal: TraceError | None = None
    try:
        plan = plan_in_mode(training=False)
    except TraceError as error:
        refusal = error
    if plan is None or not plan.prunable or reads_weights:
        with contextlib.suppress(TraceError):
            # Networks such as ECBSR compute fused weights in evaluation mode. In training mode
            # their branches are plain layers, which can be pruned.
            training_plan = plan_in_mode(training=True)
            if plan is None or _prunable_share(training_plan) > _prunable_share(plan):
                plan = training_plan
    if plan is None:
        assert refusal is not None
        raise refusal
    return plan


_LARGE_SHARE = 0.05


def _share_read(analysis: AnalysisContext) -> float:
    """Return the fraction of the parameters whose values the forward computes with."""
    # A table of positions is such a parameter, too, and is the same in both modes.
    entries = {name: math.prod(shape) for name, shape in analysis.shapes.items()}
    read = sum(entries.get(name, 0) for name in analysis.read_as_values)
    return read / max(1, sum(entries.values()))


def _prunable_share(plan: ChannelPlan) -> float:
    """Return the fraction of the parameters that have an axis of prunable channels."""
    prunable = set()
    for axis in plan.axes:
        if bool((axis.index < plan.size).any()):
            prunable.add(axis.tensor)
    entries = {name: math.prod(shape) for name, shape in plan.parameters.items()}
    kept = sum(entries.get(name, 0) for name in prunable)
    return kept / max(1, sum(entries.values()))


def freeze(
    analysis: AnalysisContext, network: nn.Module, example_input: Example, training: bool
) -> ChannelPlan:
    """Return the plan that an analysis leads to."""
    image = inputs_of(example_input)[0]
    groups, position_of_root = gather_groups(analysis)
    size = len(position_of_root)
    flat_index = flat_index_of_ids(analysis, position_of_root)
    axes = []
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
        example_shape=tuple(image.shape),
        further_inputs=first_samples(example_input)[1:],
        training_time_form=training,
        kept_statistics=_kept_statistics(analysis, flat_index, size),
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


def _kept_statistics(
    analysis: AnalysisContext, flat_index: Tensor, size: int
) -> tuple[KeptChannels, ...]:
    """Return the normalizations over channels of which some can be pruned."""
    layers = []
    for name, (dim, ids) in analysis.kept_statistics.items():
        index = flat_index[ids]
        if bool((index < size).any()):
            layers.append(KeptChannels(name, dim, index))
    return tuple(layers)


def gather_groups(analysis: AnalysisContext) -> tuple[tuple[Group, ...], dict[int, int]]:
    """Gather coupled channels into groups.

    Channels form a group if the same layers create them, the same slices hold them, and they
    are pinned alike: a channel-wise criterion then compares like with like, and no slice can
    become empty.

    Returns:
        The groups, and the position of the root of every prunable class in the flat vector.
    """
    union_find = analysis.union_find
    reasons = union_find.pin_reasons()
    boundaries = union_find.split_boundaries()
    activations = union_find.activations()
    layers_with_weight = {weight.rpartition(".")[0] for weight in analysis.layers}
    producers: dict[int, dict[str, None]] = {}
    for channel_id, root in enumerate(union_find.roots().tolist()):
        producers.setdefault(root, {})[union_find.producer[channel_id]] = None
    # In order of first appearance, which is the order of the layers: names and offsets of groups
    # are part of saved runs.
    roots_by_key: dict[tuple, list[int]] = {}
    for root, layers in producers.items():
        key = (tuple(layers), boundaries.get(root, ()), root in reasons)
        roots_by_key.setdefault(key, []).append(root)

    groups: list[Group] = []
    position_of_root: dict[int, int] = {}
    num_groups_of_layer: Counter[str] = Counter()
    for (members, _, is_pinned), roots in roots_by_key.items():
        reason = ""
        if is_pinned:
            reason = reasons[roots[0]]
        elif len(roots) == 1:
            reason = _reason_of_single_class(analysis, roots[0])
        # A layer whose output is sliced creates several groups: conv, conv#2, ...
        name = members[0]
        num_groups_of_layer[name] += 1
        if num_groups_of_layer[name] > 1:
            name = f"{name}#{num_groups_of_layer[name]}"
        start = -1
        if not reason:
            start = len(position_of_root)
            for offset, root in enumerate(roots):
                position_of_root[root] = start + offset
        groups.append(
            Group(
                name=name,
                width=len(roots),
                prunable=not reason,
                reason=reason,
                members=members,
                start=start,
                nonlinearity_fraction=_nonlinearity_fraction(
                    [activations[root] for root in roots],
                    num_layers=len(layers_with_weight.intersection(members)),
                ),
            )
        )
    return tuple(groups), position_of_root


def _nonlinearity_fraction(activations: Sequence[int], num_layers: int) -> float:
    """Return the mean of activations per layer, at most 1 each.

    Args:
        activations: for each element of a group, number of activations that act on it.
        num_layers: layers with a weight among the group's members. Others (an input, a bare
            parameter) create no channels by a linear map.
    """
    total = 0.0
    for count in activations:
        total += min(1.0, count / max(1, num_layers))
    return total / len(activations)


def _reason_of_single_class(analysis: AnalysisContext, root: int) -> str:
    """Return why a group with a single element is pinned."""
    # It is a single channel, or all channels of a layer that must stay together. Either way,
    # without it the layer would be empty.
    union_find = analysis.union_find
    ids = (union_find.roots() == root).nonzero().flatten().tolist()
    producers = set()
    for channel_id in ids:
        producers.add(union_find.producer[channel_id])
    if len(producers) < len(ids):
        return "all its channels are coupled with one another"
    return "a single channel"


def with_channels_per_element(
    groups: Sequence[Group], indices: Iterable[tuple[Tensor, int]], size: int
) -> tuple[Group, ...]:
    """Return the groups with the numbers of layer channels that an element of each controls.

    Where a group feeds a grouped convolution, an element is a channel in each of the convolution's
    groups; before a PixelShuffle it is r**2 channels. A group whose elements are unequally many
    channels of a layer counts as a single channel there: no common multiple can be kept.

    Args:
        groups: all groups of the plan.
        indices: for each axis of a tensor, index of each entry in the flat vector, `size` for a
            pinned entry; and how many times the layer has these channels, which is the number of
            groups for the weight of a grouped convolution.
        size: length of the flat vector.
    """
    prunable = [group for group in groups if group.prunable]
    widths = torch.tensor([group.width for group in prunable], dtype=torch.long)
    group_of_channel = torch.arange(len(prunable)).repeat_interleave(widths)
    # Group -> numbers of channels per element, of all axes that hold the group's channels.
    per_element: dict[str, set[int]] = {}
    for index, times in indices:
        channels_of_axis = index[index < size]
        if not len(channels_of_axis):
            continue
        ends = torch.stack(channels_of_axis.aminmax())
        first, last = group_of_channel[ends].tolist()
        # How often each channel of these groups occurs along the axis.
        offset = prunable[first].start
        length = prunable[last].span.stop - offset
        counts = torch.bincount(channels_of_axis - offset, minlength=length)
        for group in prunable[first : last + 1]:
            start = group.start - offset
            least, most = counts[start : start + group.width].aminmax()
            if most == 0:
                continue
            channels = int(least) * times
            if least != most:
                channels = 1
            per_element.setdefault(group.name, set()).add(channels)
    result = []
    for group in groups:
        if group.name in per_element:
            group = replace(group, channels_per_element=tuple(sorted(per_element[group.name])))
        result.append(group)
    return tuple(result)


def size_patches_of(
    analysis: AnalysisContext, flat_index: Tensor, size: int
) -> tuple[SizePatch, ...]:
    """Return the hard-coded sizes of all nodes that depend on a prunable channel.

    All sizes of such a node are kept, since one call must be rewritten as a whole.
    """
    patches: list[SizePatch] = []
    nodes: set[str] = set()
    for hardcoded in analysis.hardcoded_sizes:
        ranges = hardcoded.counted
        is_list = isinstance(ranges, list)
        if isinstance(ranges, ChannelRange):
            ranges = [ranges]
        counted: list[Tensor] = []
        for item in ranges:
            counted.append(counted_channels(item, flat_index, size))
        involved = torch.cat(counted)
        if hardcoded.follows_input and not bool((involved < size).any()):
            continue  # the batch, say: whatever it is, the forward comes to it
        patches.append(SizePatch(hardcoded.node, hardcoded.path, tuple(counted), is_list))
        if hardcoded.read_from is not None:
            involved = torch.cat((involved, flat_index[hardcoded.read_from]))
        if bool((involved < size).any()):
            nodes.add(hardcoded.node)
    needed: list[SizePatch] = []
    for patch in patches:
        if patch.node in nodes:
            needed.append(patch)
    return tuple(needed)


def counted_channels(counted: ChannelRange, flat_index: Tensor, size: int) -> Tensor:
    """Return the flat indices of the channels in a range."""
    # Along an axis where nothing differs (each entry is the same channel) nothing is removed by a
    # cut: its entries count like pinned ones.
    entries = flat_index[counted.ids].movedim(counted.dim, 0)
    entries = entries.reshape(len(entries), -1)[:, 0]
    if len(entries) != counted.size or bool((entries == entries[0]).all()):
        entries = torch.full((counted.size,), size)
    return entries[slice(*counted.bounds)]
