"""Pixel shuffles behind the last convolution of an ONNX graph rather than before it.

A convolution of few output channels at high resolution leaves most of the channels that a runtime
computes at once empty, and the shuffle before it moves every feature. The same convolution before
the shuffle computes `blocksize**2` as many channels of smaller maps:

    features -> DepthToSpace -> Conv (I -> O, k x k)
    features -> Conv (r*r*I -> r*r*O, k' x k') -> DepthToSpace

Results are equal, borders included: what the one pads with zeros, the other does, too.
"""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

CHANNEL_BLOCK = 16
"""Output channels that runtimes compute at once on AVX-512; more would be additional work."""

_SHUFFLE = "DepthToSpace"


def move_shuffles(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Move pixel shuffles behind convolutions whose channels fit into a block afterwards.

    Args:
        model: Changed in place.

    Returns:
        The model.
    """
    graph = model.graph
    producers = {}
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.output:
            producers[name] = node
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for result in graph.output:
        uses[result.name] = uses.get(result.name, 0) + 1
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for conv in graph.node:
        shuffle = producers.get(conv.input[0]) if conv.op_type == "Conv" else None
        if shuffle is None or uses[conv.input[0]] > 1:
            continue
        # A weight that is shared or computed stays as it is.
        constants = conv.input[1:]
        if any(name not in weights or uses[name] > 1 for name in constants):
            continue
        if _can_swap(shuffle, conv, weights[conv.input[1]].dims):
            _swap(graph, shuffle, conv, [weights[name] for name in constants])
    return model


def _can_swap(shuffle: "onnx.NodeProto", conv: "onnx.NodeProto", dims: Sequence[int]) -> bool:
    """Whether a convolution with stride 1 and "same" padding has few outputs, after a shuffle."""
    settings = _attributes(shuffle)
    if shuffle.op_type != _SHUFFLE or settings.get("mode") != b"CRD":
        return False
    outputs, _, height, width = dims
    if height != width or height % 2 == 0:
        return False
    if outputs * settings["blocksize"] ** 2 > CHANNEL_BLOCK:
        return False
    plain = {"group": 1, "strides": [1, 1], "dilations": [1, 1], "auto_pad": b"NOTSET"}
    settings = plain | {"pads": [0] * 4} | _attributes(conv)
    is_plain = all(settings[name] == value for name, value in plain.items())
    return is_plain and settings["pads"] == [height // 2] * 4


def _swap(
    graph: "onnx.GraphProto",
    shuffle: "onnx.NodeProto",
    conv: "onnx.NodeProto",
    constants: "list[onnx.TensorProto]",
) -> None:
    from onnx import helper, numpy_helper

    block = _attributes(shuffle)["blocksize"]
    arrays = [numpy_helper.to_array(tensor) for tensor in constants]
    arrays[0] = weight_before_shuffle(arrays[0], block)
    if len(arrays) > 1:
        arrays[1] = np.repeat(arrays[1], block**2)
    for tensor, array in zip(constants, arrays, strict=True):
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    side = arrays[0].shape[-1]
    kept = [entry for entry in conv.attribute if entry.name not in ("pads", "kernel_shape")]
    del conv.attribute[:]
    conv.attribute.extend(kept)
    conv.attribute.append(helper.make_attribute("pads", [side // 2] * 4))
    conv.attribute.append(helper.make_attribute("kernel_shape", [side, side]))
    features, between, result = shuffle.input[0], conv.input[0], conv.output[0]
    conv.input[0], conv.output[0] = features, between
    shuffle.input[0], shuffle.output[0] = between, result
    # Nodes stand in the order of their computation: each takes the other's position.
    moved = type(conv).FromString(conv.SerializeToString())
    conv.CopyFrom(shuffle)
    shuffle.CopyFrom(moved)
    # The exporter's notes about these have the old shapes.
    changed = {between, *(tensor.name for tensor in constants)}
    notes = [note for note in graph.value_info if note.name not in changed]
    del graph.value_info[:]
    graph.value_info.extend(notes)


def weight_before_shuffle(weight_OIHW: NDArray[np.floating], block: int) -> NDArray[np.floating]:
    """Return the weight of the convolution that computes the same before a pixel shuffle.

    Along an axis, with block 2 and taps a b c (side 3), pixel 2 i + p of the output reads the
    pixels 2 i + p - 1 to 2 i + p + 1. By blocks of 2 pixels, which are channels before the shuffle:

        block read     i - 1    i      i + 1        new side 3
        p = 0          . a      b c    . .
        p = 1          . .      a b    c .

    Args:
        weight_OIHW: Odd sides H = W, "same" padding, after the shuffle.
        block: Factor of the shuffle.

    Returns:
        (block**2 O, block**2 I, side, side), where most of the entries are zero.
    """
    outputs, inputs, side, _ = weight_OIHW.shape
    margin = side // 2
    # Blocks read on each side of a pixel's own: the margin in blocks, rounded up.
    reach = -(-margin // block)
    new_side = 2 * reach + 1
    shape = (outputs, block, block, inputs, block, block, new_side, new_side)
    moved = np.zeros(shape, weight_OIHW.dtype)
    # Tap (y, x) of the pixel (row, column) in a block reads the pixel (row_read, column_read) of
    # the block (block_y, block_x), counted from its own.
    for row, column, y, x in product(range(block), range(block), range(side), range(side)):
        block_y, row_read = divmod(row + y - margin, block)
        block_x, column_read = divmod(column + x - margin, block)
        moved[:, row, column, :, row_read, column_read, block_y + reach, block_x + reach] = (
            weight_OIHW[:, :, y, x]
        )
    return moved.reshape(outputs * block**2, inputs * block**2, new_side, new_side)


def _attributes(node: "onnx.NodeProto") -> dict[str, Any]:
    from onnx import helper

    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
