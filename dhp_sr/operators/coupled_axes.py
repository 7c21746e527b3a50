"""Channels of a module that computes its weights, found by experiment.

Which axes of its tensors, its inputs and its output hold the same channels is found by permuting
them, see `channel_experiment`:

    weight (1, O, I, k, k), modulation.weight (I, S), modulation.bias (I), x (N, I, H, W), style
    (N, S)
        O    weight axis 1, output
        I    weight axis 2, modulation axis 0 of weight and bias, x axis 1
        S    modulation.weight axis 1, style axis 1
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
"""Axes of a length among which those that belong together are looked for."""
_MOST_TENSORS = 8


@dataclass(frozen=True)
class ComputedLayer:
    """Channels of a layer that computes its weights."""

    sets: tuple[CoupledAxes, ...]
    out_dim: int
    """Axis of the result that holds its channels."""
    is_exact: bool
    """Whether zeros do for all sets together."""


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
        sets = sets_of_convolution(experiment.twin, experiment.inputs) or _sets_by_permutation(
            experiment
        )
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
    """Return the channels of any other module; nothing where they are not found.

    Either the output has channels of its own and the first input others, as in a convolution, or
    both have the same, as in a depthwise one.
    """
    inputs = {}
    for key, value in experiment.inputs.items():
        if isinstance(value, Tensor) and value.dim() > 1:
            inputs[key, channel_dim(value.shape, experiment.twin)] = value
    (first, first_dim), *others = inputs
    width = inputs[first, first_dim].shape[first_dim]
    num_outs = experiment.result.shape[experiment.out_dim]
    outs = _axes_with_same_channels(experiment, num_outs, [], others, with_output=True)
    ins = _axes_with_same_channels(
        experiment, width, [(first, first_dim)], others, with_output=False
    )
    if outs is None or ins is None:
        # A depthwise layer: its channels pass through.
        joint = _axes_with_same_channels(
            experiment, width, [(first, first_dim)], others, with_output=True
        )
        sets = [joint] if joint is not None else []
    else:
        sets = [outs, ins]
    if not sets:
        return []
    # Such as a style, whose channels the layer has to itself.
    for axis in others:
        if any(axis in axes.inputs for axes in sets):
            continue
        length = inputs[axis].shape[axis[1]]
        alone = _axes_with_same_channels(experiment, length, [axis], [], with_output=False)
        if alone is not None:
            sets.append(alone)
    return sets


def _axes_with_same_channels(
    experiment: ChannelExperiment,
    width: int,
    given: Sequence[InputAxis],
    others: Sequence[InputAxis],
    *,
    with_output: bool,
) -> CoupledAxes | None:
    """Return the axes that hold the same channels as given axes of inputs, or the result's.

    Args:
        experiment: With the module.
        width: Number of channels.
        given: Axes of inputs that do.
        others: Axes of further inputs that may.
        with_output: Whether the result has these channels.
    """
    if width < 2 or (with_output and experiment.result.shape[experiment.out_dim] != width):
        return None
    candidates: list[TensorAxis] = []
    for name, tensor in experiment.tensors.items():
        for dim, size in enumerate(tensor.shape):
            if size == width:
                candidates.append((name, dim))
    further = [axis for axis in others if experiment.inputs[axis[0]].shape[axis[1]] == width]
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
    """Yield sets of axes with a tensor's among them, likely ones and small ones first.

    A large set may hold two sets that have nothing to do with each other.

    Args:
        experiment: With the module.
        candidates: Axes of tensors.
        inputs: Axes of inputs.
        prefer_first: Whether a weight's first axis of the length is likelier than its last: weights
            hold their output channels before their input channels.
    """
    weight = max(experiment.tensors, key=lambda name: experiment.tensors[name].dim())
    of_weight = [axis for axis in candidates if axis[0] == weight]
    likely = of_weight[:1] if prefer_first else of_weight[-1:]
    subsets: list[tuple[Any, tuple[TensorAxis, ...], tuple[InputAxis, ...]]] = []
    for tensors in _all_subsets(candidates):
        is_likely = [axis for axis in tensors if axis[0] == weight] == likely
        for chosen in _all_subsets(inputs):
            if tensors:
                rank = (not is_likely, len(tensors) + len(chosen), len(subsets))
                subsets.append((rank, tensors, chosen))
    for _, tensors, chosen in sorted(subsets, key=lambda subset: subset[0]):
        yield tensors, chosen


def _all_subsets(items: Sequence[_T]) -> Iterator[tuple[_T, ...]]:
    for size in range(len(items) + 1):
        yield from itertools.combinations(items, size)
