"""Channels of a module that computes its weights, found by experiment.

Axes of its tensors, its inputs and its output that hold the same channels form a set. A modulated
convolution (StyleGAN2) has three:

    weight (1, O, I, k, k)    modulation.weight (I, S)    modulation.bias (I)
    x (N, I, H, W)            style (N, S)                output (N, O, H, W)

    set O    weight axis 1, output axis 1
    set I    weight axis 2, axis 0 of modulation.weight and modulation.bias, x axis 1
    set S    modulation.weight axis 1, style axis 1

Only axes of the same length can belong together. Subsets of these are tried, until one can be
permuted without any other effect than that on the output's channels, see `channel_experiment`.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dhp_sr.graph.computed_weights import Inputs
from dhp_sr.graph.equal_modules import channel_dim
from dhp_sr.operators.channel_experiment import ChannelExperiment
from dhp_sr.operators.few_channels import (
    sets_of_convolution,
    with_all_channels,
    with_few_channels,
    without_values,
)
from dhp_sr.operators.narrow import CoupledAxes, InputAxis, TensorAxis

_T = TypeVar("_T")

_MOST_AXES = 6
"""Axes of the same length whose subsets are tried, at most: 2**6 of them."""
_MOST_TENSORS = 8
"""Parameters of a module that is looked at, at most."""


@dataclass(frozen=True)
class ComputedLayer:
    """Channels of a layer that computes its weights."""

    sets: tuple[CoupledAxes, ...]
    out_dim: int
    """Axis of the result that holds its channels."""
    is_exact: bool
    """Whether the layer masked by zeros, in all sets together, computes what it does after a cut.
    Else it needs to be told which channels are kept."""


@torch.no_grad()
def find_computed_layer(module: nn.Module, inputs: Inputs) -> ComputedLayer | None:
    """Return the channels of a module, None where they are not found.

    Args:
        module: Any module; it is left as it was.
        inputs: Examples of its inputs, whose shapes count.
    """
    has_buffers = next(module.buffers(), None) is not None
    if has_buffers or len(list(module.parameters())) > _MOST_TENSORS:
        return None
    try:
        experiment = _experiment(module, inputs)
        # The class may tell; whatever it tells is still tried.
        sets = sets_of_convolution(experiment.twin, experiment.inputs)
        if not sets:
            sets = _sets_by_permutation(experiment)
        if not sets or not all(map(experiment.permutes, sets)):
            return None
        checked = []
        for axes in sets:
            checked.append(replace(axes, is_exact=experiment.masks_as_cut((axes,))))
        # Sets that are exact one by one need not be so together.
        is_exact = all(axes.is_exact for axes in checked) and experiment.masks_as_cut(checked)
        checked = with_all_channels(checked, module, inputs)
    except Exception:  # whatever a module raises that is no such layer
        return None
    return ComputedLayer(tuple(checked), experiment.out_dim, is_exact)


def _experiment(module: nn.Module, inputs: Inputs) -> ChannelExperiment:
    """Return an experiment with a few channels, or with all where it does not run otherwise."""
    try:
        return ChannelExperiment(*with_few_channels(module, inputs))
    except Exception:  # whatever a module raises whose widths are not those that it states
        return ChannelExperiment(without_values(module), inputs)


def _sets_by_permutation(experiment: ChannelExperiment) -> list[CoupledAxes]:
    """Return the sets of a module whose class does not tell them; nothing where none are found.

    Either the output has channels of its own and the first input others, as in a convolution, or
    both have the same, as in a depthwise one.
    """
    length_of: dict[InputAxis, int] = {}
    for key, value in experiment.inputs.items():
        if isinstance(value, Tensor) and value.dim() > 1:
            dim = channel_dim(value.shape, experiment.twin)
            length_of[key, dim] = value.shape[dim]
    first, *others = length_of
    in_width = length_of[first]
    out_width = experiment.result.shape[experiment.out_dim]
    out_set = _axes_with_same_channels(experiment, out_width, [], others, with_output=True)
    in_set = _axes_with_same_channels(experiment, in_width, [first], others, with_output=False)
    if out_set is not None and in_set is not None:
        sets = [out_set, in_set]
    else:
        # A depthwise layer: its channels pass through.
        joint_set = _axes_with_same_channels(
            experiment, in_width, [first], others, with_output=True
        )
        if joint_set is None:
            return []
        sets = [joint_set]
    # Further inputs, such as a style, whose channels do not occur elsewhere.
    for axis in others:
        if any(axis in axes.inputs for axes in sets):
            continue
        own_set = _axes_with_same_channels(
            experiment, length_of[axis], [axis], [], with_output=False
        )
        if own_set is not None:
            sets.append(own_set)
    return sets


def _axes_with_same_channels(
    experiment: ChannelExperiment,
    width: int,
    given: Sequence[InputAxis],
    others: Sequence[InputAxis],
    *,
    with_output: bool,
) -> CoupledAxes | None:
    """Return a set of axes that hold the same channels; None where no subset of them passes.

    Args:
        experiment: With the module.
        width: Number of channels.
        given: Axes of inputs that belong to the set.
        others: Axes of further inputs that may belong to it.
        with_output: Whether the result's channels belong to it.
    """
    if width < 2 or (with_output and experiment.result.shape[experiment.out_dim] != width):
        return None
    candidates: list[TensorAxis] = []
    for name, tensor in experiment.tensors.items():
        for dim, size in enumerate(tensor.shape):
            if size == width:
                candidates.append((name, dim))
    further: list[InputAxis] = []
    for key, dim in others:
        if experiment.inputs[key].shape[dim] == width:
            further.append((key, dim))
    if not candidates or len(candidates) + len(further) > _MOST_AXES:
        return None
    entries = torch.arange(width)
    for tensors, chosen in _subsets(
        experiment, candidates, further, prefer_first=with_output and not given
    ):
        axes = CoupledAxes(
            width,
            dict.fromkeys(tensors, entries),
            dict.fromkeys([*given, *chosen], entries),
            entries if with_output else None,
        )
        if experiment.permutes(axes):
            return axes
    return None


def _subsets(
    experiment: ChannelExperiment,
    candidates: Sequence[TensorAxis],
    inputs: Sequence[InputAxis],
    *,
    prefer_first: bool,
) -> Iterator[tuple[tuple[TensorAxis, ...], tuple[InputAxis, ...]]]:
    """Yield subsets of axes, an axis of a tensor in each, likely ones and small ones first.

    Small ones first, as two sets that have nothing to do with each other pass together as well.

    Args:
        experiment: With the module.
        candidates: Axes of tensors.
        inputs: Axes of inputs.
        prefer_first: Whether a weight's first axis of the length is likelier than its last: weights
            hold their output channels before their input channels. It decides where both are
            equally long.
    """
    # The tensor with the most axes is the weight; a likely subset has one axis of it.
    weight = max(experiment.tensors, key=lambda name: experiment.tensors[name].dim())
    of_weight = [axis for axis in candidates if axis[0] == weight]
    likely = of_weight[:1] if prefer_first else of_weight[-1:]
    subsets: list[tuple[Any, tuple[TensorAxis, ...], tuple[InputAxis, ...]]] = []
    for tensors in _all_subsets(candidates):
        is_likely = [axis for axis in tensors if axis[0] == weight] == likely
        for chosen in _all_subsets(inputs):
            if tensors:
                # Their number comes last: equally good ones keep their order.
                rank = (not is_likely, len(tensors) + len(chosen), len(subsets))
                subsets.append((rank, tensors, chosen))
    for _, tensors, chosen in sorted(subsets, key=lambda subset: subset[0]):
        yield tensors, chosen


def _all_subsets(items: Sequence[_T]) -> Iterator[tuple[_T, ...]]:
    for size in range(len(items) + 1):
        yield from itertools.combinations(items, size)
