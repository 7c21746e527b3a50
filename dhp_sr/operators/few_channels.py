"""Reduction of a module that computes its weights to a few channels, for experiments with it.

Which axes hold the same channels does not depend on the number of channels. With 6 or 7 of them in
place of 512, the experiments take a thousandth of the time. The sets that they find are then stated
for the whole module (`with_all_channels`):

    weight (1, 512, 256, 3, 3), x (N, 256, H, W)      the module
    weight (1, 6, 7, 3, 3),     x (N, 7, H, W)        with few channels
    sets of width 6 and 7                             found by experiment
    the same axes, of width 512 and 256               with all channels
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dhp_sr.graph.computed_weights import Inputs
from dhp_sr.graph.equal_modules import channel_dim
from dhp_sr.operators.narrow import CoupledAxes, TensorAxis, entries_of, kept_axes, narrow_copy
from dhp_sr.utils.modules import deep_copy

_FEWEST = 6
"""Channels that are enough: half of them, kept by a cut, still have statistics."""
_MANY = 16
"""Axes longer than this are reduced: all but those of kernels hold channels. Shorter ones may be
something else, such as the number of kernels that are mixed, and cost little."""


def sets_of_convolution(layer: nn.Module, inputs: Inputs) -> list[CoupledAxes]:
    """Return the sets of a class derived from one of torch's convolutions, else nothing.

    Each entry of an axis belongs to an element of a set:

        channels            output         input      weight axis 1    sets
        4 to 6              0 1 2 3 4 5    0 1 2 3    0 1 2 3          width 6, width 4
        4 to 6, 2 groups    0 1 2 0 1 2    0 1 0 1    0 1              width 3, width 2
        2 to 6, 2 groups    0 0 0 1 1 1    0 1        none             width 2 (depthwise)
    """
    if not isinstance(layer, _ConvNd) or isinstance(layer, _ConvTransposeNd):
        return []
    out_channels, ins_per_group = layer.weight.shape[:2]
    groups = layer.groups
    outs_per_group = out_channels // groups
    key = next(iter(inputs))
    is_depthwise = groups > 1 and ins_per_group == 1
    # A depthwise layer passes its channels through, with a multiplier; the groups of any other
    # must lose channels at the same positions.
    of_output = torch.arange(out_channels) % outs_per_group
    if is_depthwise:
        of_output = torch.arange(out_channels) // outs_per_group
    out_axes: dict[TensorAxis, Tensor] = {}
    for name, tensor in layer.named_parameters():
        # The weight, and every vector with a number for each output channel: a bias, a gain.
        is_vector = max(tensor.shape, default=1) == tensor.numel()
        if name == "weight" or (is_vector and tensor.numel() == out_channels):
            dim = list(tensor.shape).index(out_channels)
            out_axes[name, dim] = of_output
        elif tensor.numel() > 1:
            # It is not known which channels this tensor holds.
            return []
    if is_depthwise:
        in_axes = {(key, 1): torch.arange(groups)}
        return [CoupledAxes(groups, out_axes, in_axes, of_output)]
    of_input = torch.arange(ins_per_group * groups) % ins_per_group
    weight_axes = {("weight", 1): torch.arange(ins_per_group)}
    return [
        CoupledAxes(outs_per_group, out_axes, {}, of_output),
        CoupledAxes(ins_per_group, weight_axes, {(key, 1): of_input}),
    ]


def without_values(module: nn.Module) -> nn.Module:
    """Return a deep copy of a module, with its parameters on the meta device."""
    memo = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"))
    return deep_copy(module, memo)


def with_few_channels(module: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """Return a module as a cut to a few channels would leave it, and its inputs.

    Axes of equal length stay equally long. Where lengths depend on each other in another way, such
    as 3 times as many, the result does not run. Tensors are on the meta device.
    """
    sets = sets_of_convolution(module, inputs)
    shapes: dict[int | str, list[int]] = {}
    for key, value in inputs.items():
        if isinstance(value, Tensor):
            shapes[key] = list(value.shape)
    if sets:
        elements = [torch.arange(min(axes.width, _FEWEST)) for axes in sets]
        kept = kept_axes(sets, elements)
        for axes, chosen in zip(sets, elements, strict=True):
            for (key, dim), element_of_entry in axes.inputs.items():
                shapes[key][dim] = len(entries_of(element_of_entry, chosen))
    else:
        kept = _few_of_every_length(module, shapes)
    small: Inputs = {}
    for key, value in inputs.items():
        small[key] = value.new_empty(shapes[key]) if key in shapes else value
    return narrow_copy(without_values(module), kept), small


def _few_of_every_length(
    module: nn.Module, shapes: Mapping[int | str, list[int]]
) -> dict[TensorAxis, Tensor]:
    """Return the kept entries of a module's tensors; `shapes` of its inputs are reduced in place.

    Axes of 512 and 256 channels become axes of 6 and 7 everywhere.
    """
    axes: dict[TensorAxis, int] = {}
    present = {length for shape in shapes.values() for length in shape}
    for name, tensor in module.named_parameters():
        present.update(tensor.shape)
        num_kernel_axes = {1: 0, 2: 0, 3: 1}.get(tensor.dim(), 2)
        for dim, length in enumerate(tensor.shape[: tensor.dim() - num_kernel_axes]):
            if length > _MANY:
                axes[name, dim] = length
    few: dict[int, int] = {}
    # Lengths that differ still differ afterwards, from each other and from all that are not
    # reduced: else axes would seem to belong together.
    unused = (length for length in range(_FEWEST, _MANY + len(axes)) if length not in present)
    for length in axes.values():
        if length not in few:
            few[length] = next(unused)
    for shape in shapes.values():
        dim = channel_dim(shape, module)
        if shape:
            shape[dim] = few.get(shape[dim], shape[dim])
    return {axis: torch.arange(few[length]) for axis, length in axes.items()}


def with_all_channels(
    sets: Sequence[CoupledAxes], module: nn.Module, inputs: Inputs
) -> list[CoupledAxes]:
    """Return the sets of a module, at full width, that were found with a few of its channels."""
    wide = sets_of_convolution(module, inputs)
    shapes = {name: tensor.shape for name, tensor in module.named_parameters()}
    # All of them, where the class did not tell: found by permutation, each entry is an element.
    for axes in sets[len(wide) :]:
        (width,) = {shapes[name][dim] for name, dim in axes.tensors}
        entries = torch.arange(width)
        wide.append(
            CoupledAxes(
                width,
                dict.fromkeys(axes.tensors, entries),
                dict.fromkeys(axes.inputs, entries),
                None if axes.output is None else entries,
            )
        )
    checked = []
    for axes, few in zip(wide, sets, strict=True):
        checked.append(replace(axes, is_exact=few.is_exact))
    return checked
