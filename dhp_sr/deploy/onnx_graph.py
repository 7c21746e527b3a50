"""Networks to ONNX graphs: traced, and brought to the opset and precision that are asked for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from dhp_sr.deploy.onnx_check import MAX_FILE_BYTES
from dhp_sr.deploy.pt2_export import dynamic_axes, example_image, quiet_exporters
from dhp_sr.deploy.shuffle import move_shuffles
from dhp_sr.utils.errors import UserError

if TYPE_CHECKING:
    import onnx

OPSETS = (17, 18, 19, 20)
"""Versions of ONNX's operators that can be written."""

OPSET = 20
INPUT = "input"
OUTPUT = "output"

_LOWERED_OPSET = 17
"""The exporter writes opset 18 and later; this is the only older one that is offered."""

_TEMPORARY_DOMAIN = "aside"
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
_MIN_HALF = 6e-8
_MAX_HALF = 65504.0
"""Smallest and largest positive number of fp16."""


def convert_to_onnx(
    network: nn.Module, shape: Sequence[int], size_multiple: int, opset: int
) -> "onnx.ModelProto":
    """Trace a network into an ONNX model of the given opset.

    Raises:
        UserError: It has no ONNX form, or none in this opset, or is too large.
    """
    name = type(network).__name__
    num_bytes = sum(tensor.numel() * tensor.itemsize for tensor in network.state_dict().values())
    if num_bytes > MAX_FILE_BYTES:
        # Else protobuf raises after minutes of tracing.
        raise UserError(
            f"{name} has no ONNX form: expected weights of less than 2 GiB, as a single file "
            f"holds, got {num_bytes / 2**30:.1f} GiB; take --format pt2"
        )
    # What the exporter would report is checked below.
    with quiet_exporters("torch.onnx", "onnxscript", "onnx_ir"):
        try:
            program = torch.onnx.export(
                network,
                (example_image(network, shape),),
                dynamo=True,  # the exporter on top of torch.export; the other is deprecated
                external_data=False,
                opset_version=opset,
                dynamic_shapes=(dynamic_axes(network, size_multiple),),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            lines = str(error).strip().splitlines() or [""]
            raise UserError(f"{name} has no ONNX form: {lines[-1]}") from error
    assert program is not None, "torch.onnx.export returns a program where dynamo is set"
    model = program.model_proto
    # The exporter keeps 18 where ONNX refuses the step down to 17.
    if _opset_of(model) > opset == _LOWERED_OPSET:
        model = lower_opset(model, opset)
    if _opset_of(model) != opset:
        raise UserError(
            f"{name} has no form in opset {opset}: the exporter kept {_opset_of(model)}; take that"
        )
    return move_shuffles(remove_source_paths(model))


def _opset_of(model: "onnx.ModelProto") -> int:
    return next(entry.version for entry in model.opset_import if entry.domain == "")


def lower_opset(model: "onnx.ModelProto", opset: int) -> "onnx.ModelProto":
    """Convert a model to an older opset.

    ONNX has no rules for a Pad without axes, which means the same in both, nor for reductions,
    whose axes opset 18 made an input. So those nodes are moved to another domain, which the
    converter leaves alone, and back.
    """
    from onnx import helper, version_converter

    for node in model.graph.node:
        plain_pad = node.op_type == "Pad" and len(node.input) < 4
        if plain_pad or _axes_to_attribute(node, model.graph):
            node.domain = _TEMPORARY_DOMAIN
    model.opset_import.append(helper.make_opsetid(_TEMPORARY_DOMAIN, 1))
    try:
        lowered = version_converter.convert_version(model, opset)
    except RuntimeError:
        # Its message is a line of its source code. The caller compares the opset and reports.
        lowered = model
    for node in lowered.graph.node:
        if node.domain == _TEMPORARY_DOMAIN:
            node.domain = ""
    domains = [entry for entry in lowered.opset_import if entry.domain != _TEMPORARY_DOMAIN]
    del lowered.opset_import[:]
    lowered.opset_import.extend(domains)
    _remove_unused_constants(lowered.graph)
    return lowered


def _remove_unused_constants(graph: "onnx.GraphProto") -> None:
    """Remove constants that no node reads any more: onnxruntime warns of each, in every session."""
    used = {name for node in graph.node for name in node.input}
    used |= {output.name for output in graph.output}
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _axes_to_attribute(node: "onnx.NodeProto", graph: "onnx.GraphProto") -> bool:
    """Write a reduction as opset 17 has it; return whether that was possible.

    ReduceSum already had its axes as an input before.
    """
    from onnx import helper, numpy_helper

    if node.op_type not in _REDUCTIONS or len(node.input) < 2:
        return False
    for constant in graph.initializer:
        if constant.name == node.input[1]:
            axes = numpy_helper.to_array(constant).tolist()
            del node.input[1:]
            node.attribute.append(helper.make_attribute("axes", axes))
            kept = [entry for entry in node.attribute if entry.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
            return True
    # Axes that are computed have no form as an attribute.
    return False


def remove_source_paths(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Remove the exporter's notes about the source code of every node.

    They hold paths of this machine, and would make the bytes depend on it.
    """
    graph = model.graph
    for item in [model, graph, *graph.node, *graph.value_info, *graph.initializer]:
        del item.metadata_props[:]
    for item in [*graph.node, *graph.input, *graph.output]:
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    return model


def convert_to_half(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Convert weights, computation, input and output of a model to fp16."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with quiet_exporters():
        half = convert_float_to_float16(model, min_positive_val=_MIN_HALF, max_finite_val=_MAX_HALF)
    # The converter leaves operators such as Resize in float32, between casts, but notes fp16 as
    # the type of their results. Without the notes, programs infer the types themselves.
    del half.graph.value_info[:]
    # It also repeats the cast of a constant that several such operators share, under one name,
    # and leaves the nodes out of order.
    unique = {node.output[0]: node for node in half.graph.node}
    del half.graph.node[:]
    half.graph.node.extend(unique.values())
    OnnxModel(half).topological_sort()
    return half
