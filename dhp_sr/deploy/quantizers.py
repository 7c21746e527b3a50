"""Quantizers of the runtimes: NNCF for OpenVINO, and onnxruntime's own.

Weights have 7 bits unless a recipe is for processors with VNNI. Others multiply unsigned by signed
bytes and add pairs of products in 16 bits, where two products of 8 bits overflow: an EDSR of the
zoo with every layer in 8 bits loses 4 dB on a processor with AVX2 alone.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from dhp_sr.deploy.int8_simulation import CalibrationImage
from dhp_sr.deploy.onnx_ranges import clipped_ranges
from dhp_sr.deploy.pt2_export import quiet_exporters
from dhp_sr.deploy.recipes import MIN_REUSE, OUTLIERS, Recipe
from dhp_sr.deploy.runner import Images
from dhp_sr.utils.errors import UserError

if TYPE_CHECKING:
    import onnx
    import openvino


def quantize_onnx(
    content: bytes, images: Sequence[CalibrationImage], recipe: Recipe
) -> "onnx.ModelProto | None":
    """Quantize an ONNX model for onnxruntime, as pairs of QuantizeLinear and DequantizeLinear.

    Returns:
        The model; None where `makes_difference` says that the recipe is another one's twin.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    # Parsed each time: the quantizer changes the model that it is given.
    model = onnx.load_model_from_string(content)
    input_name = model.graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self, chosen: Sequence[CalibrationImage]) -> None:
            self.remaining = iter(chosen)

        def get_next(self) -> dict[str, Images] | None:
            image = next(self.remaining, None)
            # The quantizer's sign for the end.
            if image is None:
                return None
            return {input_name: image.lq.numpy()}

    layers = onnx_layers(model)
    if not makes_difference(layers, recipe):
        return None
    op_types = [*_ONNX_LAYERS, *_ONNX_FUSED] if recipe.layers_only else None
    # The mean of the images' extremes: a single outlier would coarsen every other value.
    options: dict[str, object] = {"CalibMovingAverage": True}
    if recipe.clips:
        options["TensorQuantOverrides"] = clipped_ranges(model, images, op_types)
    with _quiet("root", "nncf"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            # Where the ranges are known, an image for the quantizer's form.
            Reader(images[:1] if recipe.clips else images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not recipe.needs_vnni,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=op_types,
            nodes_to_exclude=float_layers(layers, recipe),
            extra_options=options,
        )
        return onnx.load_model(path)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Suppress what the libraries log, warn about themselves and print as progress."""
    with quiet_exporters(*names), contextlib.redirect_stdout(io.StringIO()):
        yield


Reuse = Mapping[str, float]
"""Name of a layer -> products per value of its input, in the order of the graph."""


def float_layers(layers: Reuse, recipe: Recipe) -> list[str]:
    """Return the names of the layers that a recipe leaves in float32."""
    names = [*layers]
    # Slices: a network of averages and shuffles alone has no layer.
    ends = {*names[:1], *names[-1:]}
    left = {"ends": ends, "first": {*names[:1]}, "none": set()}[recipe.in_float]
    if recipe.heavy_only:
        left |= light_layers(layers)
    return sorted(left)


def light_layers(layers: Reuse) -> set[str]:
    """Return the names of the layers that have too few products for int8 to pay."""
    return {name for name, reuse in layers.items() if reuse < MIN_REUSE}


def makes_difference(layers: Reuse, recipe: Recipe) -> bool:
    """Whether `heavy_only`, if a recipe asks for it, leaves some layers in float32 and not all.

    Else the network would be quantized as by the recipe without it, or not at all.
    """
    return not recipe.heavy_only or 0 < len(light_layers(layers)) < len(layers)


def onnx_layers(model: "onnx.ModelProto") -> dict[str, float]:
    """Return the layers of an ONNX model, see `Reuse`."""
    from onnx import helper

    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    layers = {}
    for node in model.graph.node:
        if node.op_type not in _ONNX_LAYERS:
            continue
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        weight = shapes.get(node.input[1], ())
        if not weight:
            # Products of two features, as in attention, have no weight.
            layers[node.name] = 0.0
        elif node.op_type in ("MatMul", "Gemm"):
            layers[node.name] = float(weight[0 if attributes.get("transB") else -1])
        elif node.op_type == "Conv":
            # (O, I / groups, H, W): a value is read by the outputs of its group, at every place of
            # the kernel that a stride does not pass over.
            groups = attributes.get("group", 1)
            strides = attributes.get("strides", [1])
            layers[node.name] = prod(weight) / weight[1] / groups / prod(strides)
        else:
            # Transposed, (I, O / groups, H, W): strides leave out no place of the kernel.
            layers[node.name] = prod(weight) / weight[0]
    return layers


def openvino_reuse(operation: "openvino.Node") -> float:
    """Return the products per value of a layer's input; 0 where it has no weight."""
    weight = operation.input(1).get_partial_shape()
    if weight.is_dynamic:
        return 0.0
    sides = list(weight.to_shape())
    attributes = operation.get_attributes()
    if operation.get_type_name() == "MatMul":
        return float(sides[-2 if attributes["transpose_b"] else -1])
    strides = attributes["strides"]
    # Groups are an axis of their own, in front: (G, O / G, I / G, H, W).
    grouped = len(sides) - len(strides) - 2
    outputs, inputs, *kernel = sides[grouped:]
    # Transposed ones have inputs and outputs the other way round, as in ONNX.
    if "BackpropData" in operation.get_type_name():
        return float(inputs * prod(kernel))
    return outputs * prod(kernel) / prod(strides)


_ONNX_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ONNX_FUSED = ("Relu", "Clip")
"""Activations that onnxruntime computes in the layer before them: left out, the layer's output is
rounded before what they remove is gone, in steps several times as coarse."""

_OPENVINO_DATA = ("Parameter", "Constant", "Result")
_OPENVINO_MOVES = {"DepthToSpace", "SpaceToDepth"}
"""Operations that may move what is int8 already: the values are the same, in a quarter of the
bytes."""

_OPENVINO_LAYERS = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
)


def quantize_openvino(
    model: "openvino.Model", images: Sequence[CalibrationImage], recipe: Recipe
) -> "openvino.Model | None":
    """Quantize an OpenVINO model by NNCF, with correction of the biases.

    Returns:
        The model; None where `makes_difference` says that the recipe is another one's twin.

    Raises:
        UserError: nncf is not installed.
    """
    try:
        import nncf
        from nncf.quantization.range_estimator import (
            AggregatorType,
            RangeEstimatorParameters,
            StatisticsCollectorParameters,
            StatisticsType,
        )
    except ImportError as error:
        raise UserError(
            "--int8 for OpenVINO needs the package nncf, which is not installed: "
            "pip install 'dhp_sr[openvino]'"
        ) from error
    layers = {}
    other_types = set()
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind in _OPENVINO_LAYERS:
            layers[operation.get_friendly_name()] = openvino_reuse(operation)
        elif kind not in _OPENVINO_DATA:
            other_types.add(kind)
    if not makes_difference(layers, recipe):
        return None
    names = float_layers(layers, recipe)
    types = sorted(other_types - _OPENVINO_MOVES) if recipe.layers_only else []
    ignored = nncf.IgnoredScope(names=names, types=types) if names or types else None
    inputs = [image.lq.numpy() for image in images]
    overflow_fix = nncf.OverflowFix.DISABLE if recipe.needs_vnni else nncf.OverflowFix.ENABLE
    ranges = None
    if recipe.clips:
        bound = StatisticsCollectorParameters(
            statistics_type=StatisticsType.QUANTILE,
            # Not the mean: a few odd images would widen the ranges of all.
            aggregator_type=AggregatorType.MEDIAN,
            quantile_outlier_prob=OUTLIERS,
        )
        ranges = RangeEstimatorParameters(min=bound, max=bound)
    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=overflow_fix, activations_range_estimator_params=ranges
    )
    with _quiet("nncf"):
        return nncf.quantize(
            # A copy: the quantizer changes the model that it is given.
            model.clone(),
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            ignored_scope=ignored,
            advanced_parameters=advanced,
        )
