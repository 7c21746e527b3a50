"""A network as one ONNX file, with free batch, height and width, compared with PyTorch before it is kept."""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dhp_sr.deploy.onnx_check import seal
from dhp_sr.deploy.onnx_metadata import pack_metadata
from dhp_sr.deploy.onnx_session import open_onnx, require_onnx
from dhp_sr.deploy.pt2 import check_shape, dynamic_sides, exporters_quiet, traced_image
from dhp_sr.deploy.simplify import prepare
from dhp_sr.deploy.verify import Agreement, allowed, compare, unseen_shapes
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_path

if TYPE_CHECKING:
    import onnx

__all__ = ["INPUT", "OPSET", "OPSETS", "OUTPUT", "export_onnx", "open_onnx", "require_onnx"]

OPSETS = (17, 18, 19, 20)
OPSET = 20
INPUT, OUTPUT = "input", "output"
_BEFORE_AXES_OF_PADS = 17
_ASIDE = "aside"
_SMALLEST_HALF, _LARGEST_HALF = 6e-8, 65504.0


def export_onnx(
    network: nn.Module,
    path: str | Path,
    example_shape: Sequence[int],
    *,
    size_multiple: int = 1,
    opset: int = OPSET,
    half: bool = False,
    facts: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
) -> Agreement:
    """Write `network` to one ONNX file that takes any batch, height and width.

    The file is run with onnxruntime at two sizes that it was not made with, and takes its name only if the results are
    PyTorch's. Weights lie inside it, normalization and EDSR's range are merged into the convolutions.

    Args:
        network: takes one image tensor (N, C, H, W) in [0, 1] and returns one; it is left as it was.
        path: the file; input and output are called `input` and `output`.
        example_shape: (N, C, H, W) of the input that the graph is traced with; H and W multiples of `size_multiple`.
        size_multiple: sides of the input must be multiples of it.
        opset: version of ONNX's operators, one of `OPSETS`.
        half: weights, computation, input and output in fp16; programs such as chaiNNer feed what the input's type asks.
        facts: the file's metadata, see `onnx_metadata.KEYS`.
        tolerance: largest difference allowed; default: that of the precision in `TOLERANCES`.

    Raises:
        UserError: onnx, onnxruntime or onnxscript is missing; an argument does not fit; the network cannot be exported;
            or the file computes something else.
        OSError: the file cannot be written.
    """
    require_onnx()
    check_shape(example_shape, size_multiple)
    if opset not in OPSETS:
        raise UserError(f"expected an opset from {OPSETS[0]} to {OPSETS[-1]}, found {opset}")
    model = _convert(prepare(network), example_shape, size_multiple, opset)
    if half:
        model = _half(model)
    texts = pack_metadata(facts) if facts else {}
    shapes = unseen_shapes(example_shape, size_multiple)
    with atomic_path(path) as temporary:
        seal(model, texts, temporary)
        return _agreement(network, temporary, shapes, half, allowed(half, tolerance))


def _agreement(
    network: nn.Module, path: Path, shapes: Sequence[Sequence[int]], half: bool, tolerance: float
) -> Agreement:
    """Run the file beside the network."""
    original, run = copy.deepcopy(network).cpu().float().eval(), _runner(open_onnx(path), half)
    try:
        return compare(original, run, shapes, tolerance)
    except UserError as error:
        hint = (
            "where values leave its range, fp16 does not suit the network"
            if half
            else "try another opset"
        )
        raise UserError(f"{error}; {hint}") from error


def _convert(
    network: nn.Module, shape: Sequence[int], multiple: int, opset: int
) -> "onnx.ModelProto":
    with exporters_quiet(), _logs_off("torch.onnx", "onnxscript", "onnx_ir"):
        try:
            program = torch.onnx.export(
                network,
                (traced_image(network, shape),),
                dynamo=True,
                external_data=False,
                opset_version=opset,
                dynamic_shapes=(dynamic_sides(network, multiple),),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[-1:] or [""]
            raise UserError(f"{type(network).__name__} has no ONNX form: {reason[0]}") from error
    model = program.model_proto
    if _opset(model) > opset == _BEFORE_AXES_OF_PADS:
        model = _lowered(model, opset)
    found = _opset(model)
    if found != opset:
        raise UserError(
            f"{type(network).__name__} has no form in opset {opset}: the exporter kept {found}; take that"
        )
    return _without_traces(model)


def _opset(model: Any) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain == "")


def _lowered(model: Any, opset: int) -> Any:
    """Return the model in an older opset; a Pad without axes means the same there, but ONNX has no rule for it."""
    from onnx import helper, version_converter

    pads = [node for node in model.graph.node if node.op_type == "Pad" and len(node.input) < 4]
    for node in pads:
        node.domain = _ASIDE
    model.opset_import.append(helper.make_opsetid(_ASIDE, 1))
    try:
        lower = version_converter.convert_version(model, opset)
    except RuntimeError:  # which names a place in its source
        lower = model
    for node in lower.graph.node:
        node.domain = "" if node.domain == _ASIDE else node.domain
    kept = [entry for entry in lower.opset_import if entry.domain != _ASIDE]
    del lower.opset_import[:]
    lower.opset_import.extend(kept)
    return lower


def _without_traces(model: Any) -> Any:
    """Take out what the exporter notes about the source code of every node; it holds paths of this machine."""
    for part in [
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.initializer,
    ]:
        del part.metadata_props[:]
    for part in [*model.graph.node, *model.graph.input, *model.graph.output]:
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    return model


def _half(model: Any) -> Any:
    """Return a model in which everything is fp16: weights, computation, input and output."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with exporters_quiet():
        return convert_float_to_float16(
            model, min_positive_val=_SMALLEST_HALF, max_finite_val=_LARGEST_HALF
        )


def _runner(session: Any, half: bool) -> Callable[[Tensor], Tensor]:
    kind = np.float16 if half else np.float32
    return lambda x: torch.from_numpy(session.run([OUTPUT], {INPUT: x.numpy().astype(kind)})[0])


@contextmanager
def _logs_off(*names: str) -> Iterator[None]:
    """Silence loggers: the exporter says in its own words what `_convert` checks."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
