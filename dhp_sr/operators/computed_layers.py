"""Layers that compute their weight: standardized, modulated, mixed of several kernels.

Such a module is a single operator. Which of its axes hold the same channels is found by experiment
(`coupled_axes`); all axes with the same channels are a set. Of a standardized convolution from I to
O channels:

    set 0    weight axis 0, bias axis 0, result axis 1       width O
    set 1    weight axis 1, input axis 1                     width I

Here each set is coupled with the channels around the layer, and the multiply-adds of the layer are
worked out as a function of the widths of its sets.

A filter that is standardized, (w - mean) / deviation over its own entries, does not depend on
other filters: its output channel is as free as that of a plain convolution. Its input channels
enter the statistics. Cut or masked, these are taken over the kept ones, as in a normalization over
channels. Where zeros in the weight do what a cut does (a scaled weight, the demodulation of
StyleGAN2, kernels mixed by a softmax) masks suffice.
"""

from fractions import Fraction
from functools import partial
from itertools import combinations
from math import prod

import torch
from torch import Tensor, fx

from dhp_sr.graph.call_macs import count_macs
from dhp_sr.graph.computed_weights import Inputs, arguments_of, split_inputs
from dhp_sr.graph.equal_modules import WEIGHT_FINDERS
from dhp_sr.graph.shape_inference import meta_copy
from dhp_sr.operators.analysis_context import KeptAxes, LayerCalls
from dhp_sr.operators.context import OpContext, ReceptiveContext
from dhp_sr.operators.coupled_axes import ComputedLayer, find_computed_layer
from dhp_sr.operators.narrow import CoupledAxes, entries_of, kept_axes, narrow_copy
from dhp_sr.operators.receptive_field import ReceptiveField2D
from dhp_sr.operators.spec import OpSpec, Unsupported

WEIGHT_FINDERS.append(find_computed_layer)


def computed_layer_channels(op: OpContext) -> Tensor:
    """Bind the channels that experiment finds; statistics are taken over the kept ones.

    Raises:
        Unsupported: The channels of the module are not found.
    """
    assert op.module is not None, "recognized as modules alone"
    given = arguments_of(op.module, op.node.args, op.node.kwargs)
    examples = {key: op.evaluate(value) for key, value in given.items()}
    layer = op.analysis.computed_layers.find(op.module, examples)
    macs = None
    if layer is not None:
        count = partial(_macs_by_sets, op, layer, given)
        macs = op.analysis.computed_layers.once("macs", op.module, examples, count)
    if layer is None or macs is None:
        raise Unsupported(f"{op.operator} at {op.layer} computes its weights, and has no rule")
    # For each set, the ids of its elements: every axis of the set is described by them.
    ids = [_bind(op, axes, given) for axes in layer.sets]
    _pin_other_inputs(op, layer, given)
    if not layer.is_exact:
        _keep_statistics(op, layer, ids)
    _record_macs(op, layer, macs, ids)
    for axes, channels in zip(layer.sets, ids, strict=True):
        if axes.output is not None:
            return op.broadcast_along(channels[axes.output], layer.out_dim)
    raise AssertionError("a set holds the channels of the result")


def _bind(op: OpContext, axes: CoupledAxes, given: Inputs) -> Tensor:
    """Couple the channels of a set; returns the (width,) ids of its elements.

    A set with an axis of an input takes on that input's channels. Any other creates channels, as
    output channels are.
    """
    union_find = op.analysis.union_find
    ids: Tensor | None = None
    for (key, dim), element_of_entry in axes.inputs.items():
        entries = op.channels(given[key], dim)
        if ids is None:
            ids = entries[_first_entries(element_of_entry, axes.width)]
        union_find.union(entries, ids[element_of_entry])
    for (name, dim), element_of_entry in axes.tensors.items():
        tensor = f"{op.layer}.{name}"
        if ids is None:
            count = len(element_of_entry)
            entries = op.analysis.new_out_channels(tensor, dim, count, op.layer)
            ids = entries[_first_entries(element_of_entry, axes.width)]
        op.analysis.bind_axis(tensor, dim, ids[element_of_entry])
        groups = getattr(op.module, "groups", 1)
        if name == "weight" and dim == 1 and isinstance(groups, int) and groups > 1:
            op.analysis.record_groups(tensor, dim, groups)
    assert ids is not None, "a set has axes of tensors"
    return ids


def _first_entries(element_of_entry: Tensor, width: int) -> Tensor:
    """Return the first entry of each element along an axis.

    An element has several entries where they must be cut together. Both groups of a convolution of
    4 input channels lose the same positions: elements [0 1 0 1], first entries [0 1].
    """
    first_entry = torch.zeros(width, dtype=torch.long)
    # Written from the last entry to the first, so that the first one of each element stays.
    first_entry[element_of_entry.flip(0)] = torch.arange(len(element_of_entry)).flip(0)
    return first_entry


def _pin_other_inputs(op: OpContext, layer: ComputedLayer, given: Inputs) -> None:
    """Pin the channels of inputs that go into the weight as a whole."""
    known = {key for axes in layer.sets for key, _ in axes.inputs}
    for key, argument in given.items():
        if isinstance(argument, fx.Node) and key not in known:
            reason = f"{op.operator} at {op.layer} computes its weights from all of it"
            op.analysis.pin(op.ids.get(argument), reason)


def _keep_statistics(op: OpContext, layer: ComputedLayer, ids: list[Tensor]) -> None:
    """State over which channels the layer computes its weights, or pin those that must stay."""
    if not op.analysis.kept_statistics_allowed:
        reason = f"{op.operator} at {op.layer} computes its weights from all channels"
        for axes, channels in zip(layer.sets, ids, strict=True):
            if not axes.is_exact:
                op.analysis.pin(channels, reason)
        return
    inputs: dict[tuple[int | str, int], Tensor] = {}
    tensors: dict[tuple[str, int], Tensor] = {}
    output: Tensor | None = None
    for axes, channels in zip(layer.sets, ids, strict=True):
        inputs |= {axis: channels[elements] for axis, elements in axes.inputs.items()}
        tensors |= {axis: channels[elements] for axis, elements in axes.tensors.items()}
        if axes.output is not None:
            output = channels[axes.output]
    assert output is not None, "a set holds the channels of the result"
    op.analysis.kept_statistics[op.layer] = KeptAxes(
        inputs, tensors, layer.out_dim - op.value.dim(), output
    )


Macs = dict[tuple[int, ...], int]
"""Positions (in `ComputedLayer.sets`) of the sets whose widths a count is proportional to ->
multiply-adds."""

Counts = dict[frozenset[int], Fraction]
"""Positions of some sets -> multiply-adds. At first those with these sets at half width; in the end
the term that is proportional to the widths of these sets and to no other."""


def _macs_by_sets(op: OpContext, layer: ComputedLayer, given: Inputs) -> Macs | None:
    """Return the multiply-adds by the widths that they are proportional to; None if unknown.

    A layer with the widths O and I costs a + b O + c I + d O I: each factor is a width or a
    constant. So it is counted with every choice of sets at half width, as many counts as there are
    terms, and the terms follow from them, one width after the other. With O = 4, I = 6 and a cost
    of 10 O + 3 O I:

        counted             full 112    half O 56    half I 76    half both 38
        O is separated      with I full: 0 + 112 of O       with I half: 0 + 76 of O
        I is separated      112 and 76 of O: 40 of O alone, 72 of O and I
    """
    positions = range(len(layer.sets))
    half_widths = [(axes.width + 1) // 2 for axes in layer.sets]
    counts: Counts = {}
    for size in range(len(layer.sets) + 1):
        for halved in combinations(positions, size):
            count = _count(op, layer, given, halved, half_widths)
            if count <= 0:
                return None
            counts[frozenset(halved)] = Fraction(count)
    terms = counts
    for position in positions:
        ratio = Fraction(half_widths[position], layer.sets[position].width)
        # Half of a single channel is that channel: there is nothing to tell apart.
        if ratio < 1:
            terms = separate_width(terms, position, ratio)
    macs: Macs = {}
    for proportional, term in terms.items():
        widths = [layer.sets[position].width for position in proportional]
        # With a single channel at "half width", not separated above: the same count once more.
        if 1 in widths:
            continue
        # No multiple of the widths: the counts do not follow the form that was supposed.
        if term < 0 or term.denominator > 1 or term % prod(widths):
            return None
        if term:
            macs[tuple(sorted(proportional))] = int(term)
    return macs


def separate_width(counts: Counts, position: int, ratio: Fraction) -> Counts:
    """Divide counts into what is proportional to the width of a set, and what is constant in it.

    From full = constant + proportional and half = constant + ratio * proportional.

    Args:
        counts: With `position` in the key where the set is at its smaller width.
        position: Position of the set.
        ratio: Its smaller width, as a fraction of its width.

    Returns:
        Counts at full width, with `position` in the key where they are proportional to it.
    """
    separated: Counts = {}
    for others, full_count in counts.items():
        if position in others:
            continue
        half_count = counts[others | {position}]
        constant = (half_count - ratio * full_count) / (1 - ratio)
        separated[others | {position}] = full_count - constant
        separated[others] = constant
    return separated


def _count(
    op: OpContext,
    layer: ComputedLayer,
    given: Inputs,
    halved: tuple[int, ...],
    half_widths: list[int],
) -> int:
    """Return the multiply-adds of a call with some sets at half width."""
    elements: list[Tensor | None] = [None] * len(layer.sets)
    inputs: Inputs = {key: op.evaluate(value) for key, value in given.items()}
    for position in halved:
        chosen = torch.arange(half_widths[position])
        elements[position] = chosen
        for (key, dim), element_of_entry in layer.sets[position].inputs.items():
            shape = list(inputs[key].shape)
            shape[dim] = len(entries_of(element_of_entry, chosen))
            inputs[key] = inputs[key].new_empty(shape)
    module = narrow_copy(meta_copy(op.module), kept_axes(layer.sets, elements))
    return count_macs(op.node, module, *split_inputs(inputs))


def _record_macs(op: OpContext, layer: ComputedLayer, macs: Macs, ids: list[Tensor]) -> None:
    """Count the multiply-adds: of the weight where it has all of them, else of products."""
    weight = getattr(op.module, "weight", None)
    # Proportional to a single product of widths, as of a plain layer: if these are the widths of
    # the weight's first two axes, the layer is counted by its weight, and cuts of it are exact.
    if len(macs) == 1 and isinstance(weight, Tensor):
        ((positions, count),) = macs.items()
        out_sets = {p for p in positions if ("weight", 0) in layer.sets[p].tensors}
        in_sets = {p for p in positions if ("weight", 1) in layer.sets[p].tensors}
        is_of_weight = bool(out_sets) and out_sets | in_sets == set(positions)
        is_filter = is_of_weight and count % weight.numel() == 0
        # A depthwise filter has no input channels on its second axis.
        if is_filter and (in_sets or weight.shape[1] == 1):
            output_elements = prod(op.value.shape[1:])
            kind = "linear" if weight.dim() == 2 else "conv"
            calls = LayerCalls(kind, count // weight.numel(), 0, output_elements)
            op.analysis.record_macs(f"{op.layer}.weight", calls)
            return
    for positions, count in macs.items():
        name = ".".join([f"{op.node.name}()", *map(str, positions)])
        factors = {index: ids[position] for index, position in enumerate(positions)}
        op.analysis.record_product(name, count, factors)


def computed_layer_field(op: ReceptiveContext) -> ReceptiveField2D:
    """Refuse a layer that is not followed operator by operator.

    Raises:
        Unbounded: Always.
    """
    raise op.unbounded("may look at the whole image")


COMPUTED_LAYER = OpSpec(
    "layer that computes its weight",
    (),
    channels=computed_layer_channels,
    receptive_field=computed_layer_field,
)
"""Stands for every module that is recognized by `find_computed_layer`."""
