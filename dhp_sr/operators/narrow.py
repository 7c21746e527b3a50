"""Axes of a module that hold the same channels, and the module with some of these channels."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dhp_sr.operators.layers import resize_convolution, resize_linear, resize_transposed
from dhp_sr.operators.spec import Shape, Shapes

TensorAxis = tuple[str, int]
"""Name of a tensor of a module, and axis of it."""

InputAxis = tuple[int | str, int]
"""Name or position of an argument, and axis of it."""


@dataclass(frozen=True)
class CoupledAxes:
    """Axes that hold the same channels; each element stands for channels that are cut together."""

    width: int
    """Number of elements."""
    tensors: Mapping[TensorAxis, Tensor] = field(default_factory=dict)
    """Axis of a tensor of the module -> (length,) element of each entry."""
    inputs: Mapping[InputAxis, Tensor] = field(default_factory=dict)
    """Axis of an input -> (length,) element of each entry."""
    output: Tensor | None = None
    """(C,) element of each channel of the result; None where these are others."""
    is_exact: bool = False
    """Whether the layer with zeros in its tensors computes what it does without them."""


def entries_of(element_of_entry: Tensor, elements: Tensor) -> Tensor:
    """Return the indices of the entries that belong to some elements, in their order."""
    return torch.isin(element_of_entry, elements).nonzero().flatten()


def kept_axes(
    sets: Iterable[CoupledAxes], elements: Sequence[Tensor | None]
) -> dict[TensorAxis, Tensor]:
    """Return the kept entries along axes of a module's tensors.

    Args:
        sets: Coupled axes of a module.
        elements: For each set the elements that are kept; None for all.
    """
    kept = {}
    for axes, chosen in zip(sets, elements, strict=True):
        if chosen is not None:
            for axis, element_of_entry in axes.tensors.items():
                kept[axis] = entries_of(element_of_entry, chosen)
    return kept


def narrow(module: nn.Module, kept: Mapping[TensorAxis, Tensor]) -> nn.Module:
    """Return a copy of a module that has only some entries along some axes of its tensors.

    Gradients flow back into the module's own tensors.

    Args:
        module: Any module.
        kept: Indices of the entries along each axis that is cut.
    """
    narrowed = copy.copy(module)
    state = vars(narrowed)
    # The forward of the copy is that of its class, whatever the instance was given instead.
    state.pop("forward", None)
    old: Shapes = {}
    new: Shapes = {}
    for registry in ("_parameters", "_buffers"):
        tensors: dict[str, Tensor | None] = {}
        for name, tensor in state[registry].items():
            if tensor is None:
                tensors[name] = None
                continue
            selected = select_entries(tensor, name, kept)
            tensors[name] = selected
            old[name] = tuple(tensor.shape)
            new[name] = tuple(selected.shape)
        # Another dictionary: the copy is shallow, and shares that of the module.
        state[registry] = tensors
    children: dict[str, nn.Module | None] = {}
    for name, child in module._modules.items():
        of_child = {}
        for (tensor_name, dim), index in kept.items():
            if tensor_name.startswith(f"{name}."):
                of_child[tensor_name.removeprefix(f"{name}."), dim] = index
        children[name] = narrow(child, of_child) if child is not None and of_child else child
    state["_modules"] = children
    if new != old:
        set_widths(narrowed, old, new)
    return narrowed


def narrow_copy(module: nn.Module, kept: Mapping[TensorAxis, Tensor]) -> nn.Module:
    """Return a narrow copy with parameters of its own, to which no gradient of the module flows."""
    narrowed = narrow(module, kept)
    for inner in narrowed.modules():
        for name, tensor in inner.named_parameters(recurse=False):
            inner._parameters[name] = nn.Parameter(tensor.detach())
    return narrowed


def select_entries(tensor: Tensor, name: str, kept: Mapping[TensorAxis, Tensor]) -> Tensor:
    """Return the kept entries of a tensor of this name; along axes that are not given, all."""
    for dim in range(tensor.dim()):
        if (name, dim) in kept:
            tensor = tensor.index_select(dim, kept[name, dim].to(tensor.device))
    return tensor


def set_widths(module: Any, old: Mapping[str, Shape], new: Mapping[str, Shape]) -> Shapes:
    """Set the attributes of a module that state its widths, where it computes its weights.

    Args:
        module: A layer of torch, a layer derived from one, a normalization or any other module.
        old: Shapes of its tensors.
        new: Their new shapes.

    Returns:
        The shapes that its tensors must have together, as far as that is known.
    """
    if isinstance(module, _ConvTransposeNd):
        return resize_transposed(module, old, new)
    if isinstance(module, _ConvNd):
        return resize_convolution(module, old, new)
    if isinstance(module, nn.Linear):
        return resize_linear(module, old, new)
    attributes = vars(module)
    _set_width_of_norm(attributes, old, new)
    weight = max(old, key=lambda name: len(old[name]), default="")
    if weight and len(old[weight]) > 1:
        _set_stated_widths(attributes, old[weight], new[weight])
    return {}


def _set_width_of_norm(
    attributes: dict[str, Any], old: Mapping[str, Shape], new: Mapping[str, Shape]
) -> None:
    """Set the attributes of a normalization by the lengths of its vectors, whatever their names."""
    for name, shape in old.items():
        width = max(shape, default=1)
        if width != math.prod(shape):
            continue
        new_width = max(new[name], default=1)
        stated = attributes.get("normalized_shape")
        # A list in some classes, and equal to no tuple then; (C,) or (C, 1, 1).
        if (
            isinstance(stated, (tuple, list))
            and max(stated, default=0) == math.prod(stated) == width
        ):
            shape_left = [new_width if size == width else size for size in stated]
            attributes["normalized_shape"] = tuple(shape_left)
        if attributes.get("num_channels") == width:
            attributes["num_channels"] = new_width


def _set_stated_widths(attributes: dict[str, Any], old: Shape, new: Shape) -> None:
    """Set attributes such as `out_channels` and `in_planes` by the axes of a weight.

    Weights hold their output channels before their input channels, and the kernel behind both.
    """
    num_kernel_axes = {2: 0, 3: 1}.get(len(old), 2)
    channels_first = old[: len(old) - num_kernel_axes]
    for name, value in list(attributes.items()):
        if type(value) is not int or value not in channels_first:
            continue
        words = name.lower().strip("_").split("_")
        if "out" in words:
            attributes[name] = new[channels_first.index(value)]
        elif "in" in words:
            last = len(channels_first) - 1 - channels_first[::-1].index(value)
            attributes[name] = new[last]
