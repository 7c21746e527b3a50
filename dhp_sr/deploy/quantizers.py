"""Quantizers of the runtimes: NNCF for OpenVINO, and onnxruntime's own.

Weights have 7 bits unless a recipe is for processors with VNNI. Others multiply unsigned by signed
bytes and add pairs of products in 16 bits, where two products of 8 bits overflow: an EDSR of the
zoo with every layer in 8 bits loses 4 dB on a processor with AVX2 alone.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhp_sr.deploy.calibration import CalibrationImage
from dhp_sr.deploy.pt2_export import quiet_exporters
from dhp_sr.deploy.quantize import Recipe
from dhp_sr.deploy.runner import Images
from dhp_sr.utils.errors import UserError

if TYPE_CHECKING:
    import onnx


def quantize_onnx(
    content: bytes, images: Sequence[CalibrationImage], recipe: Recipe
) -> "onnx.ModelProto":
    """Quantize an ONNX model for onnxruntime, as pairs of QuantizeLinear and DequantizeLinear."""
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
        def __init__(self) -> None:
            self.remaining = iter(images)

        def get_next(self) -> dict[str, Images] | None:
            image = next(self.remaining, None)
            # The quantizer's sign for the end.
            if image is None:
                return None
            return {input_name: image.lq.numpy()}

    layers = [node.name for node in model.graph.node if node.op_type in _ONNX_LAYERS]
    with _quiet("root", "nncf"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not recipe.needs_vnni,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_ONNX_LAYERS) if recipe.layers_only else None,
            nodes_to_exclude=[layers[0], layers[-1]] if recipe.float_ends else [],
            # The mean of the images' extremes: a single outlier would coarsen every other value.
            extra_options={"CalibMovingAverage": True},
        )
        return onnx.load_model(path)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Suppress what the libraries log, warn about themselves and print as progress."""
    with quiet_exporters(*names), contextlib.redirect_stdout(io.StringIO()):
        yield


_ONNX_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_OPENVINO_DATA = ("Parameter", "Constant", "Result")
_OPENVINO_LAYERS = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
)


def quantize_openvino(model: Any, images: Sequence[CalibrationImage], recipe: Recipe) -> Any:
    """Quantize an OpenVINO model by NNCF, with correction of the biases.

    Raises:
        UserError: nncf is not installed.
    """
    try:
        import nncf
    except ImportError as error:
        raise UserError(
            "--int8 for OpenVINO needs the package nncf, which is not installed: "
            "pip install 'dhp_sr[openvino]'"
        ) from error
    layers = []
    other_types = set()
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind in _OPENVINO_LAYERS:
            layers.append(operation.get_friendly_name())
        elif kind not in _OPENVINO_DATA:
            other_types.add(kind)
    # A set: a network may have a single layer.
    names = sorted({layers[0], layers[-1]}) if recipe.float_ends else []
    types = sorted(other_types) if recipe.layers_only else []
    ignored = nncf.IgnoredScope(names=names, types=types) if names or types else None
    inputs = [image.lq.numpy() for image in images]
    overflow_fix = nncf.OverflowFix.DISABLE if recipe.needs_vnni else nncf.OverflowFix.ENABLE
    with _quiet("nncf"):
        return nncf.quantize(
            # A copy: the quantizer changes the model that it is given.
            model.clone(),
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            ignored_scope=ignored,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow_fix),
        )
