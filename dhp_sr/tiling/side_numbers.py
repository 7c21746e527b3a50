"""Numbers that a forward works out from the sides of the image: they are others in a tile.

Of `n, c, h, w = x.shape`:

    x * c**-0.5                      the same in a tile and in the whole image
    x.view(n, c, h // 8, 8, w)       a size: the rules of operators say what it does
    x / (h * w)                      an entry is divided by another number in a tile
    range(h)                         the trace has as many steps as the example has rows
    if h % 8 > 0                     the same for all sides that are multiples of 8
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.graph.capture import TracedNetwork
from dhp_sr.graph.shape_inference import ValueRecorder, meta_copy
from dhp_sr.operators.context import ReceptiveContext
from dhp_sr.operators.elementwise import pointwise_field
from dhp_sr.operators.receptive_field import ReceptiveField2D, Unbounded
from dhp_sr.operators.spec import OpSpec

SideNumbers = dict[fx.Node, Any]
"""Node -> whether its value follows from a side of the image; for a shape, one answer an axis."""


def check_arithmetic(op: ReceptiveContext, spec: OpSpec, side_numbers: SideNumbers) -> None:
    """Refuse arithmetic of an image with a number that follows from its sides.

    Raises:
        Unbounded: The node computes with such a number, or a constant made of one.
    """
    if spec.receptive_field is not pointwise_field or not isinstance(op.value, Tensor):
        return
    for node in op.node.all_input_nodes:
        if _is_any(side_numbers.get(node)):
            raise op.unbounded("computes with the size of the image")


def follows_sides(op: ReceptiveContext, side_numbers: SideNumbers) -> Any:
    """Return the entry of a node in `SideNumbers`, given those of all nodes before it."""
    node = op.node
    if op.fields.get(node) is not None or node.op in ("placeholder", "get_attr", "output"):
        return False
    source = node.args[0] if node.args else None
    field = op.fields.get(source) if isinstance(source, fx.Node) else None
    if isinstance(field, ReceptiveField2D):
        axes = tuple(field.holds_space(dim) for dim in range(len(field.layout)))
        asks_shape = node.target is getattr and node.args[1] == "shape"
        if asks_shape or node.target in ("size", "numel"):
            dim = op.arg_value(1, "dim") if node.target == "size" else None
            if dim is not None:
                return axes[dim]
            return any(axes) if node.target == "numel" else axes
    known = side_numbers.get(source) if isinstance(source, fx.Node) else None
    if isinstance(known, tuple) and getattr(node.target, "__name__", "") == "getitem":
        return known[op.arg_value(1, "index")]
    return any(_is_any(side_numbers.get(value)) for value in node.all_input_nodes)


def check_decisions(
    traced: TracedNetwork, example: Tensor, side_numbers: SideNumbers, sides: Sequence[int]
) -> None:
    """Refuse a forward that decided on a number which is another one for other sides.

    Args:
        traced: The network, as it was followed for the example.
        example: The example.
        side_numbers: Entries of all its nodes.
        sides: Other sides of an image.

    Raises:
        Unbounded: It did.
    """
    guards = [node for node in traced.guards if _is_any(side_numbers.get(node))]
    if not guards:
        return
    network = meta_copy(traced.graph_module)
    for side in sides:
        image = torch.empty(*example.shape[:2], side, side, dtype=example.dtype, device="meta")
        recorder = ValueRecorder(network, traced.graph_module.graph)
        try:
            with torch.no_grad():
                recorder.run(image)
        except Exception as error:
            # The graph asserts that a number is what it was, or has sizes that do not fit.
            cause = str(error).partition("\n")[0]
            raise Unbounded(
                f"the forward was followed for one size of the image: {cause}"
            ) from error
        for node in guards:
            if recorder.values[node] != traced.values[node]:
                raise Unbounded(f"the forward decides on the size of the image at {node.name}")


def _is_any(follows: Any) -> bool:
    """Return whether a number, or one of those of a shape, follows from a side."""
    return any(follows) if isinstance(follows, tuple) else bool(follows)
