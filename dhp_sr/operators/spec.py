"""Registry entry of an operator: everything that the project knows of it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import nn

from dhp_sr.operators.analysis_context import LayerCalls, Sign
from dhp_sr.operators.context import NodeContext, OpContext, ReceptiveContext
from dhp_sr.operators.receptive_field import ReceptiveField2D

Target = type[nn.Module] | Callable[..., Any] | str
"""One spelling of an operator: class of a module, function, or name of a method of tensors."""

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

ChannelRule = Callable[[OpContext], Any]
"""Returns the channel ids of the result, broadcastable to it; a list of them for several results,
None for none."""

ReceptiveRule = Callable[[ReceptiveContext], ReceptiveField2D | list[ReceptiveField2D] | None]
"""Returns the receptive field of the result; None if it does not depend on the image."""

ResizeRule = Callable[[Any, Mapping[str, Shape], Mapping[str, Shape]], Shapes]
"""(module, old shapes, new shapes) -> the shapes that its tensors must have together; sets the
module's attributes."""


class Unsupported(Exception):
    """A rule does not handle this call: its channels are pinned, with the text as reason."""


class CannotResize(Exception):
    """A layer cannot take the given shapes; the text names the tensor and the reason."""


class Activation(Enum):
    """Kind of activation function."""

    NONE = "none"
    NONLINEARITY = "nonlinearity"
    """Acts on features (ReLU, GELU, ...)."""
    GATE = "gate"
    """Squashes to [0, 1] and multiplies other features (sigmoid): does not make its channels
    non-linear."""


@dataclass(frozen=True)
class MacRule:
    """Rule that counts the multiply-adds of a layer with a weight."""

    kind: str
    """Name of the kind of layer: conv, transposed conv, linear."""
    positions: Callable[[NodeContext], int]
    """Number of multiplications of each entry of the weight, for one sample. MACs are this times
    its entries."""
    out_dim: Callable[[NodeContext], int] = lambda op: 0
    """Axis of the weight that holds the output channels."""

    def count(self, op: NodeContext) -> LayerCalls:
        """Return the multiply-adds of a call."""
        output_elements = math.prod(op.value.shape[1:])
        return LayerCalls(self.kind, self.positions(op), self.out_dim(op), output_elements)


@dataclass(frozen=True)
class OpSpec:
    """One operator, in all its spellings.

    See `dhp_sr.operators.registry.register_op` for a worked example.
    """

    name: str
    targets: tuple[Target, ...]
    """All spellings: module classes, functions, names of tensor methods."""
    channels: ChannelRule
    """Its effect on channels. Raises `Unsupported` for calls that it does not handle."""
    receptive_field: ReceptiveRule | None = None
    """Pixels that its result reads; None where no result is an image (sizes, questions about
    types)."""
    activation: Activation = Activation.NONE
    sign: Sign | Callable[[OpContext], Sign] = Sign.ANY
    """Sign of the result."""
    takes_sizes: bool = False
    """Whether a number of channels may be an argument without being a factor of the result."""
    value_inputs: int | None = None
    """Number of the first inputs that it computes with; others tell a shape or a type, or are
    weights. None: all."""
    is_sum: bool = False
    """Whether it adds features, or subtracts them, as at the end of a residual block."""
    macs: MacRule | None = None
    """Counts the multiply-adds of a layer with a weight; None for operators without."""
    resize: ResizeRule | None = None
    """Gives a module of this type other widths; None for modules without weights."""

    def sign_of(self, op: OpContext) -> Sign:
        """Return the sign of the result of a call."""
        return self.sign if isinstance(self.sign, Sign) else self.sign(op)


def spellings(names: str, *namespaces: Any) -> tuple[Target, ...]:
    """Return the functions with these space-separated names, and the names as tensor methods."""
    targets: list[Target] = []
    for name in names.split():
        for namespace in namespaces:
            # torch.float and the like are types of numbers, not functions.
            function = getattr(namespace, name, None)
            if callable(function):
                targets.append(function)
        targets.append(name)
    return tuple(targets)
