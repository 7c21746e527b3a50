"""Tiling: the receptive field of a network, and the halo and alignment of tiles by it.

With them, tiles give the result of the whole image.

The rules of single operators (`OpSpec.receptive_field`) propagate a `ReceptiveField2D` from node to
node of the traced graph; here is the loop over the graph, and what the field of the output means
for tiles.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph.capture import trace
from dhp_sr.graph.in_place import is_same_view, sees_write
from dhp_sr.graph.trace_errors import TraceError
from dhp_sr.operators.context import ReceptiveContext
from dhp_sr.operators.receptive_field import IDENTITY, ReceptiveField2D, Unbounded, image_field
from dhp_sr.operators.registry import spec_for
from dhp_sr.tiling.side_numbers import (
    SideNumbers,
    check_arithmetic,
    check_decisions,
    follows_sides,
)
from dhp_sr.utils.modules import floating_dtype

EXAMPLE_SIDES = (48, 768)
"""Sides tried for the example, as multiples of these.

48 can be halved four times and divided by 3. In deeper networks its rounded sizes would not be
proportional to the input's; 768 can be halved eight times.
"""


_SMALL_SIDE = 33
"""Least side of a tile that decisions on sizes are tried with: odd where tiles may be."""


class ReceptiveField(NamedTuple):
    """Surroundings that a tile needs for the same result as in the whole image."""

    halo: int | None
    """Input pixels needed on each side of a tile; None if any output pixel may depend on the whole
    image."""
    multiple: int
    """Tiles begin and end at multiples of this many input pixels, except at the image's end."""
    reason: str = ""
    """Why `halo` is None."""


def receptive_field(network: nn.Module, in_channels: int, size_multiple: int = 1) -> ReceptiveField:
    """Compute the receptive field of a network from its traced graph.

    Nothing is computed but shapes. The result is an upper bound: no pixel outside it has an
    influence. Operators with a global receptive field (global pooling, instance normalization), or
    without a rule, make it unbounded.

    Args:
        network: Maps (N, in_channels, H, W) to (N, C, scale H, scale W); left as it was, traced in
            eval mode.
        in_channels: Channels of its input.
        size_multiple: Sides of its input must be multiples of it.

    Returns:
        Halo and alignment of tiles; no halo, with the reason, where it is unbounded.
    """
    reasons = []
    for example_side in EXAMPLE_SIDES:
        side = math.lcm(size_multiple, example_side)
        try:
            field = _output_field(network, in_channels, side, size_multiple)
        except Unbounded as error:
            reasons.append(str(error))
        except TraceError as error:
            # A larger example would not be traced either.
            reasons.append(str(error))
            break
        else:
            rows = field.rows
            columns = field.columns
            halo = max(rows.before, rows.after, columns.before, columns.after)
            return ReceptiveField(halo, _multiple(field, size_multiple))
    return ReceptiveField(None, size_multiple, reasons[0])


def _multiple(field: ReceptiveField2D, size_multiple: int) -> int:
    """Return what the sides of tiles are multiples of."""
    # A tile must begin where the pattern of both axes does.
    return math.lcm(field.rows.stride, field.columns.stride, size_multiple)


def _output_field(
    network: nn.Module, in_channels: int, side: int, size_multiple: int
) -> ReceptiveField2D:
    """Return the receptive field of the network's output, for a square example.

    Raises:
        TraceError: The network cannot be traced.
        Unbounded: An operator has a global receptive field or no rule, or the output is no image of
            the input's proportions.
    """
    example = torch.zeros(1, in_channels, side, side, dtype=floating_dtype(network))
    traced = trace(network, example)
    modules = dict(traced.graph_module.named_modules(remove_duplicate=False))
    fields: dict[fx.Node, Any] = {}
    side_numbers: SideNumbers = {}
    for node in traced.graph_module.graph.nodes:
        if node.op == "output":
            field = _check_output(fields.get(node.args[0]), traced.values[node])
            # A small tile, and an image that is larger than the example.
            unit = _multiple(field, size_multiple)
            small = unit * math.ceil(_SMALL_SIDE / unit)
            check_decisions(traced, example, side_numbers, (small, 2 * side))
            return field
        module = modules[node.target] if node.op == "call_module" else None
        op = ReceptiveContext(node, module, traced.values[node], traced.values, fields, side)
        fields[node] = _node_field(op, side_numbers)
        side_numbers[node] = follows_sides(op, side_numbers)
        _follow_write(op)
    raise Unbounded("the network returns nothing")


def _follow_write(op: ReceptiveContext) -> None:
    """Give a value that the node has written into the field of what was written.

    It changes for all nodes that read it later.

    Raises:
        Unbounded: A later node reads a value that shares its memory, and has other entries.
    """
    overwritten = op.overwritten()
    if not overwritten:
        return
    written, field = overwritten[0], op.fields[op.node]
    is_changed = op.fields.get(written) != field
    op.fields[written] = field
    for alias in overwritten[1:]:
        if is_same_view(op.values[alias], op.values[written]):
            op.fields[alias] = field
        # All pixels of the other value must have been written as those of a tile would be: its
        # first rows are not the first rows of the image.
        elif (is_changed or _lengths(op.fields[alias]) != _lengths(field)) and sees_write(
            alias, op.node, written, op.values
        ):
            raise op.unbounded(f"writes into {written.name}, a part of which is read elsewhere")


def _lengths(field: Any) -> set[tuple[int, int]]:
    """Return the numbers of rows and columns of a field, or of all in a list."""
    items = field if isinstance(field, list) else [field]
    return {item.lengths for item in items if item is not None}


def _node_field(op: ReceptiveContext, side_numbers: SideNumbers) -> Any:
    """Return the field of a node's value; None if no input pixel reaches it."""
    if op.node.op == "placeholder":
        # Further inputs, which are None here, have no field.
        if not isinstance(op.value, Tensor) or op.value.dim() != 4:
            return None
        return image_field(IDENTITY, IDENTITY, op.value.shape)
    # What no input pixel reaches, such as a constant or a size, does not widen any field.
    depends = any(op.fields.get(node) is not None for node in op.node.all_input_nodes)
    results = op.value if isinstance(op.value, (tuple, list)) else [op.value]
    holds_tensor = any(isinstance(result, Tensor) for result in results)
    is_number = op.value is not None and not holds_tensor
    if op.node.op == "get_attr" or not depends or is_number:
        return None
    spec = spec_for(op.node, op.module)
    if spec.receptive_field is None:
        raise op.unbounded("may look at the whole image")
    check_arithmetic(op, spec, side_numbers)
    return spec.receptive_field(op)


def _check_output(field: Any, value: Any) -> ReceptiveField2D:
    if not isinstance(value, Tensor) or not isinstance(field, ReceptiveField2D):
        raise Unbounded("the network does not return a single image that depends on its input")
    axes = (field.rows, field.columns)
    scale = 1 / field.rows.step
    for axis in axes:
        # Tiles are put together by a whole scale, the same for both axes, with no rest at the end.
        is_whole = axis.step * scale == 1 and scale.denominator == 1
        if not is_whole or axis.padding or not field.is_image:
            raise Unbounded("the output's sides are not a whole multiple of the input's")
    return field
