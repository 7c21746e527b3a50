"""Modules that compute the weight of a layer, with one finding for all modules that are equal.

Finding out by experiment which axes of such a module hold the same channels takes seconds, and a
network often has dozens of equal ones.
"""

import math
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dhp_sr.graph.computed_weights import Inputs

_T = TypeVar("_T")

WEIGHT_FINDERS: list[Callable[[nn.Module, Inputs], Any]] = []
"""Functions of a module and examples of its inputs, on the meta device. Each describes the module
as a single operator that computes a weight, or returns None where it is none. It may look at the
module's class, settings and shapes alone."""

_SIDE = 4
"""Rows and columns of the maps that modules are tried on, unless a kernel is larger."""


class ComputedLayers:
    """Layers that compute their weight in one network, each kind of them tried once."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def find(self, module: nn.Module, inputs: Inputs) -> Any:
        """Return the finding of one of `WEIGHT_FINDERS` about a module, or None.

        Args:
            module: Any module; it is left as it was.
            inputs: Examples of its inputs, whose shapes count.
        """
        small = small_inputs(module, inputs)
        return self.once("layer", module, small, lambda: as_single_operator(module, small))

    def once(self, fact: str, module: nn.Module, inputs: Inputs, find: Callable[[], _T]) -> _T:
        """Return a function's finding about a module, called once for all that are equal.

        Args:
            fact: Name of what it finds.
            module: Any module.
            inputs: Inputs of its call, whose shapes count.
            find: Looks at nothing but the module's class, settings and shapes, and the inputs.
        """
        try:
            key = (fact, _settings(module), _frozen(inputs))
        except (_Unequal, RecursionError):  # modules that refer to each other
            return find()
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]


def as_single_operator(module: nn.Module, inputs: Inputs) -> Any:
    """Return the finding of the first of `WEIGHT_FINDERS` that knows a module, or None."""
    for finder in WEIGHT_FINDERS:
        layer = finder(module, inputs)
        if layer is not None:
            return layer
    return None


def channel_dim(shape: Sequence[int], module: nn.Module) -> int:
    """Return the axis of the channels of a feature that a module reads or gives."""
    if isinstance(module, nn.Linear):
        return len(shape) - 1
    if len(shape) != 3:
        return min(1, len(shape) - 1)
    # (N, C, L) of a convolution along one axis, (N, L, C) of a linear layer.
    most_axes = 0
    for parameter in module._parameters.values():
        if parameter is not None:
            most_axes = max(most_axes, parameter.dim())
    return 1 if most_axes > 2 else 2


def small_inputs(module: nn.Module, inputs: Inputs) -> Inputs:
    """Return examples of a module's inputs on maps as small as its kernels allow, two samples.

    Layers that compute their weight do the same at every pixel.
    """
    sides = [_SIDE]
    for weight in module.parameters():
        if weight.dim() > 3:
            sides.extend(weight.shape[-2:])
    side = max(sides)
    small: Inputs = {}
    for key, value in inputs.items():
        small[key] = value
        if isinstance(value, Tensor):
            sizes = [2, *value.shape[1:2]]
            dim = channel_dim(value.shape, module)
            for axis, size in enumerate(value.shape[2:], start=2):
                sizes.append(size if axis == dim else min(size, side))
            small[key] = torch.empty(sizes, dtype=value.dtype, device="meta")
    return small


class _Unequal(Exception):
    """Two values cannot be told to be equal."""


def _settings(module: nn.Module) -> Any:
    """Return all that a forward can depend on, but for the values of parameters.

    Raises:
        _Unequal: It depends on something that cannot be compared.
    """
    # The name of an attribute tells its registry: `_modules` holds modules, with their settings.
    return type(module), _frozen(vars(module))


def _frozen(value: Any) -> Any:
    """Return a key that is equal for equal values.

    Raises:
        _Unequal: The value is neither a plain one, nor a container of such values.
    """
    kind = type(value)
    if isinstance(value, nn.Module):
        return _settings(value)
    if isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and value.is_meta):
        return kind, tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return kind, tuple((key, _frozen(item)) for key, item in value.items())
    if kind in (list, tuple):
        return kind, tuple(map(_frozen, value))
    if not value and kind in (set, frozenset):
        return kind
    if kind is float and math.isnan(value):
        raise _Unequal
    if kind in _PLAIN:
        return kind, value  # with its type, as 1 == 1.0 == True
    raise _Unequal


_PLAIN = (
    *(bool, int, float, str, type(None), type),
    *(torch.dtype, torch.device, torch.Size, FunctionType, BuiltinFunctionType),
)
