"""The formats that export.py writes: one row each, a suffix and a writer.

A new format is a writer and a row of `EXPORT_FORMATS`. The command line reads the rows, and
`--help` must not take seconds: so writers import what they need when they are called.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dhp_sr.utils.strict_json import JsonObject

if TYPE_CHECKING:
    from torch import nn

    from dhp_sr.deploy.int8_simulation import CalibrationImage
    from dhp_sr.deploy.quantize import Int8Options
    from dhp_sr.deploy.verify import Agreement


@dataclass(frozen=True)
class ExportOptions:
    """Choices of an export beside its format."""

    opset: int | None = None
    """Operator set of an ONNX file; None: `onnx_export.OPSET`."""
    half: bool = False
    """Weights and computation in fp16."""
    license: str | None = None
    """Stated in the file; None: the license of the model file."""
    tolerance: float | None = None
    """Largest difference to PyTorch; None: that of the precision in `verify.TOLERANCES`."""
    int8: bool = False
    """Weights and computation in int8."""
    calibration: str | Path | None = None
    """Folder of ground-truth images to quantize with."""
    sigma: float | None = None
    """Noise level (0-255 scale) of a denoiser's calibration images."""
    max_loss: float | None = None
    """Largest loss of int8 in dB; None: `quantize.DEFAULT_MAX_LOSS`."""
    qat_steps: int | None = None
    """Steps of quantization-aware finetuning; None: `quantize.DEFAULT_FINETUNE_STEPS`."""
    images: Sequence["CalibrationImage"] = ()
    """Those of `calibration`, read by `export_model`."""
    drawn_images: Sequence["CalibrationImage"] = ()
    """Images unlike those, to measure with alone."""

    @property
    def precision(self) -> str:
        """Precision of weights and computation."""
        if self.int8:
            return "int8"
        return "fp16" if self.half else "fp32"

    @property
    def file_ending(self) -> str:
        """End of the default file name, before the suffix."""
        # Each precision has its own name: exports beside each other do not replace each other.
        return "" if self.precision == "fp32" else f"_{self.precision}"

    def int8_options(self, network: "nn.Module") -> "Int8Options | None":
        """Choices of the quantization, with defaults for what is not given; None: no int8."""
        from dhp_sr.deploy.model_info import info_of
        from dhp_sr.deploy.quantize import DEFAULT_FINETUNE_STEPS, DEFAULT_MAX_LOSS, Int8Options
        from dhp_sr.deploy.runner import find_lower_limit

        if not self.int8:
            return None
        info = info_of(network)
        return Int8Options(
            self.images,
            self.drawn_images,
            max_loss=DEFAULT_MAX_LOSS if self.max_loss is None else self.max_loss,
            finetune_steps=DEFAULT_FINETUNE_STEPS if self.qat_steps is None else self.qat_steps,
            size_multiple=info.sizes.multiple,
            least_side=find_lower_limit(network, info),
            report=partial(print, file=sys.stderr),
        )


Writer = Callable[["nn.Module", Path, JsonObject, ExportOptions], tuple[str, "Agreement"]]
"""(network, path, facts for the metadata, options) -> label of the format, and how well the file
agrees with PyTorch."""


@dataclass(frozen=True)
class ExportFormat:
    """A format of files for other programs."""

    suffix: str
    write: Writer
    """Writes a verified file; raises where it would compute something else."""
    has_int8: bool = False
    """Whether it can hold int8 weights and computation."""
    beside: tuple[str, ...] = ()
    """Suffixes of further files, written beside it under the same stem."""


def write_onnx(
    network: "nn.Module", path: Path, facts: JsonObject, options: ExportOptions
) -> tuple[str, "Agreement"]:
    """Write ONNX."""
    from dhp_sr.deploy.model_info import info_of, traced_shape
    from dhp_sr.deploy.onnx_export import export_onnx
    from dhp_sr.deploy.onnx_graph import OPSET

    opset = options.opset or OPSET
    agreement = export_onnx(
        network,
        path,
        traced_shape(info_of(network)),
        size_multiple=info_of(network).sizes.multiple,
        opset=opset,
        half=options.half,
        int8=options.int8_options(network),
        facts=facts,
        tolerance=options.tolerance,
    )
    return f"ONNX, opset {opset}", agreement


def write_openvino(
    network: "nn.Module", path: Path, facts: JsonObject, options: ExportOptions
) -> tuple[str, "Agreement"]:
    """Write OpenVINO's two files, the graph and the weights beside it."""
    from dhp_sr.deploy.model_info import info_of, traced_shape
    from dhp_sr.deploy.openvino_export import export_openvino

    agreement = export_openvino(
        network,
        path,
        traced_shape(info_of(network)),
        size_multiple=info_of(network).sizes.multiple,
        half=options.half,
        int8=options.int8_options(network),
        facts=facts,
        tolerance=options.tolerance,
    )
    return "OpenVINO", agreement


def write_pt2(
    network: "nn.Module", path: Path, facts: JsonObject, options: ExportOptions
) -> tuple[str, "Agreement"]:
    """Write a torch.export program."""
    from dhp_sr.deploy.model_info import info_of, traced_shape
    from dhp_sr.deploy.onnx_metadata import pack_metadata
    from dhp_sr.deploy.pt2_export import export_pt2

    agreement = export_pt2(
        network,
        path,
        traced_shape(info_of(network)),
        size_multiple=info_of(network).sizes.multiple,
        half=options.half,
        metadata=pack_metadata(facts),
        tolerance=options.tolerance,
    )
    return "torch.export", agreement


def write_safetensors(
    network: "nn.Module", path: Path, facts: JsonObject, options: ExportOptions
) -> tuple[str, "Agreement"]:
    """Write a model file.

    Raises:
        UserError: Model files cannot name the network, or the file differs by too much.
    """
    import torch

    from dhp_sr.deploy import load_model, save_model
    from dhp_sr.deploy.manifest import FACTS
    from dhp_sr.deploy.model_info import info_of, traced_shape
    from dhp_sr.deploy.verify import compare, tolerance_of, unseen_shapes
    from dhp_sr.utils.errors import UserError
    from dhp_sr.utils.files import atomic_path
    from dhp_sr.utils.modules import deep_copy
    from dhp_sr.zoo.third_party import can_be_loaded

    if not can_be_loaded(network):
        name = info_of(network).architecture
        raise UserError(
            f"{name} is not among the networks that model files can name; "
            "see dhp_sr.deploy.register"
        )
    stored = {key: facts[key] for key in FACTS if facts[key] is not None}
    dtype = torch.float16 if options.half else torch.float32
    # Verified before it takes its name, like the other formats; the file is read back for it.
    with atomic_path(path) as temporary:
        # A copy: `to` works in place, and the file is compared with the network as it was.
        save_model(deep_copy(network).to(dtype), temporary, **stored)
        loaded = load_model(temporary).float()
        shapes = unseen_shapes(traced_shape(info_of(network)), info_of(network).sizes.multiple)
        tolerance = tolerance_of(options.half, options.tolerance)
        return "safetensors", compare(network, loaded, shapes, tolerance)


EXPORT_FORMATS = {
    "onnx": ExportFormat(".onnx", write_onnx, has_int8=True),
    "openvino": ExportFormat(".xml", write_openvino, has_int8=True, beside=(".bin",)),
    "pt2": ExportFormat(".pt2", write_pt2),
    "safetensors": ExportFormat(".safetensors", write_safetensors),
}
"""Value of `--format` -> row."""
