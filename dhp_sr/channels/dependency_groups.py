"""Dependency groups: coupled channels, gathered by the layers that create them.

channel ids           0 1 2   3 4 5   6 7     created layer by layer by the analysis
their classes (roots) 0 1 2   0 1 2   6 7     conv 2 is added to conv 1: ids 3 to 5 are coupled
groups                conv1 (3 elements), conv3 (2 elements)
flat vector           0 1 2 | 3 4             an entry for each element of a prunable group
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dhp_sr.channels.plan import Group
from dhp_sr.operators.analysis_context import AnalysisContext


def gather_groups(analysis: AnalysisContext) -> tuple[tuple[Group, ...], dict[int, int]]:
    """Gather coupled channels into groups.

    Channels form a group if the same layers create them, the same slices hold them, and they
    are pinned alike: a channel-wise criterion then compares like with like, and no slice can
    become empty.

    Returns:
        The groups, and the position of the root of every prunable class in the flat vector.
    """
    activations = analysis.union_find.activations()
    reasons = analysis.union_find.pin_reasons()
    layers_with_weight = set()
    for weight in analysis.layers:
        layers_with_weight.add(weight.rpartition(".")[0])
    made = {node for _, node in analysis.made_channels}
    groups: list[Group] = []
    # Prunable classes are numbered group by group, so each group is a slice of the flat vector.
    position_of_root: dict[int, int] = {}
    num_groups_of_layer: Counter[str] = Counter()
    for members, roots in _alike_classes(analysis, reasons):
        reason = reasons.get(roots[0], "")
        if not reason and len(roots) == 1:
            reason = _reason_of_single_class(analysis, roots[0])
        # Named after a layer where there is one, not after zeros that it is written into.
        members = tuple(member for member in members if member not in made) or members
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
        nonlinearity_fraction = _nonlinearity_fraction(
            [activations[root] for root in roots],
            num_layers=len(layers_with_weight.intersection(members)),
        )
        groups.append(
            Group(
                name=name,
                width=len(roots),
                prunable=not reason,
                reason=reason,
                members=members,
                start=start,
                nonlinearity_fraction=nonlinearity_fraction,
            )
        )
    return tuple(groups), position_of_root


def _alike_classes(
    analysis: AnalysisContext, reasons: Mapping[int, str]
) -> list[tuple[tuple[str, ...], list[int]]]:
    """Return, for each group, the layers that create its channels, and the roots of its classes.

    Args:
        analysis: Analysis of the network.
        reasons: Root of each pinned class -> why it is pinned.
    """
    union_find = analysis.union_find
    boundaries = union_find.split_boundaries()
    # Dicts for sets, which forget the order.
    producers: dict[int, dict[str, None]] = {}
    for channel_id, root in enumerate(union_find.roots().tolist()):
        producers.setdefault(root, {})[union_find.producer[channel_id]] = None
    # In order of first appearance, which is the order of the layers: names and offsets of groups
    # are part of saved runs.
    roots_by_key: dict[tuple, list[int]] = {}
    for root, layers in producers.items():
        key = (tuple(layers), boundaries.get(root, ()), root in reasons)
        roots_by_key.setdefault(key, []).append(root)
    return [(members, roots) for (members, _, _), roots in roots_by_key.items()]


def _nonlinearity_fraction(activations: Sequence[int], num_layers: int) -> float:
    """Return the mean of activations per layer, at most 1 each.

    Args:
        activations: For each element of a group, number of activations that act on it.
        num_layers: Layers with a weight among the group's members. Others (an input, a bare
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
        groups: All groups of the plan.
        indices: For each axis of a tensor, index of each entry in the flat vector, `size` for a
            pinned entry; and how many times the layer has these channels, which is the number of
            groups for the weight of a grouped convolution.
        size: Length of the flat vector.
    """
    prunable: list[Group] = []
    widths: list[int] = []
    for group in groups:
        if group.prunable:
            prunable.append(group)
            widths.append(group.width)
    repeats = torch.tensor(widths, dtype=torch.long)
    group_of_channel = torch.arange(len(prunable)).repeat_interleave(repeats)
    # Group -> numbers of channels per element, of all axes that hold the group's channels.
    per_element: dict[str, set[int]] = {}
    for index, times in indices:
        channels_of_axis = index[index < size]
        if not len(channels_of_axis):
            continue
        # Only the groups between the lowest and the highest channel can occur on this axis.
        # Counting over the whole vector, for every axis, would grow with the square of the network.
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
