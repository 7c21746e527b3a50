"""Ranges of activations that leave out the outermost values, for onnxruntime's quantizer."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dhp_sr.deploy.int8_simulation import CalibrationImage
from dhp_sr.deploy.recipes import OUTLIERS
from dhp_sr.deploy.runner import Images

if TYPE_CHECKING:
    import onnx

TENSORS_AT_ONCE = 64
"""Activations that are held at the same time; the graph runs once for each such group."""

_SMALL = 20
"""Fewer values than these, of vectors and scalars, have no outliers."""

Range = Mapping[str, np.float32]
"""`rmin` and `rmax`, onnxruntime's words for the ends."""


def clipped_ranges(
    model: "onnx.ModelProto", images: Sequence[CalibrationImage], op_types: Collection[str] | None
) -> dict[str, list[Range]]:
    """Find the range of each activation from what `OUTLIERS` leaves of every image's values.

    The ends are medians over the images. onnxruntime's own percentiles are those of all images'
    values together, where a few odd images of 32 can widen a range tenfold.

    Args:
        model: In float32.
        images: Images for calibration.
        op_types: Types of the operators whose inputs and outputs are wanted; None: all.

    Returns:
        Name of the tensor -> its range, as the quantizer's option `TensorQuantOverrides` takes it.
    """
    names = _activations(model, op_types)
    ends: dict[str, list[Images]] = {name: [] for name in names}
    for start in range(0, len(names), TENSORS_AT_ONCE):
        group = names[start : start + TENSORS_AT_ONCE]
        for name, values in _computed(model, group, images):
            ends[name].append(_inner_range(values))
    ranges: dict[str, list[Range]] = {}
    for name, pairs in ends.items():
        low, high = np.median(pairs, axis=0)
        # Padding is zero, so zero must have an exact form.
        ranges[name] = [{"rmin": np.float32(min(low, 0)), "rmax": np.float32(max(high, 0))}]
    return ranges


def _activations(model: "onnx.ModelProto", op_types: Collection[str] | None) -> list[str]:
    """Return the names of the tensors in float32 that are no weights."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    float_names = {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    float_names -= {tensor.name for tensor in graph.initializer}
    names = [
        name
        for node in graph.node
        if op_types is None or node.op_type in op_types
        for name in (*node.input, *node.output)
        if name in float_names
    ]
    return list(dict.fromkeys(names))


def _computed(
    model: "onnx.ModelProto", names: Sequence[str], images: Sequence[CalibrationImage]
) -> Iterator[tuple[str, Images]]:
    """Yield each tensor's name and values for one image after the other."""
    import onnx
    import onnxruntime

    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    input_name = opened.graph.input[0].name
    already = {output.name for output in opened.graph.output}
    inner = [name for name in names if name != input_name]
    for name in inner:
        if name not in already:
            opened.graph.output.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            )
    session = onnxruntime.InferenceSession(
        opened.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for image in images:
        lq = image.lq.numpy()
        if input_name in names:
            yield input_name, lq
        # Of no names it would return all outputs.
        if inner:
            yield from zip(inner, session.run(inner, {input_name: lq}), strict=True)


def _inner_range(values: Images) -> Images:
    shares = [OUTLIERS, 1 - OUTLIERS] if values.size >= _SMALL else [0.0, 1.0]
    return np.quantile(values, shares)
