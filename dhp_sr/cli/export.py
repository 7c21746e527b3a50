"""A model file, ours or another project's weights, in a form for other programs; for export.py."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dhp_sr.archs import ARCHS
from dhp_sr.cost.activation_memory import peak_activation_bytes
from dhp_sr.deploy import (
    ModelFileError,
    load_into,
    load_model,
    load_weights,
    read_manifest,
    save_model,
)
from dhp_sr.deploy.manifest import FACTS, describe
from dhp_sr.deploy.onnx import OPSET, export_onnx
from dhp_sr.deploy.onnx_metadata import pack_metadata
from dhp_sr.deploy.probe_shapes import LEAST_SIDE, out_channels, passing_side
from dhp_sr.deploy.pt2 import export_pt2
from dhp_sr.deploy.rebuild import without_memory
from dhp_sr.deploy.third_party import origin_of
from dhp_sr.deploy.verify import Agreement, allowed, compare, size_text, unseen_shapes
from dhp_sr.deploy.weights import check_fit
from dhp_sr.metrics import complexity
from dhp_sr.tiling.receptive import receptive_field
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import atomic_path
from dhp_sr.utils.pixels import round_up
from dhp_sr.zoo.names import build_named, full_name, named_arguments
from dhp_sr.zoo.networks import example_shape, image_shape
from dhp_sr.zoo.third_party import can_be_loaded, describe_by_output

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}
"""Format -> suffix of its files."""


@dataclass(frozen=True)
class Exported:
    """What an export has written."""

    path: Path
    facts: Mapping[str, Any]
    """As in the metadata of ONNX files."""
    form: str
    """`ONNX, opset 20` or the like."""
    agreement: Agreement


def export_model(
    model: str | Path,
    form: str,
    output: str | Path | None = None,
    *,
    arch: str | None = None,
    arguments: Sequence[str] = (),
    opset: int | None = None,
    half: bool = False,
    licence: str | None = None,
    tolerance: float | None = None,
) -> Exported:
    """Write a model in another form, verified against PyTorch at two sizes that the export has not seen.

    Args:
        model: a model file of ours; or, with `arch`, weights of a dense network: `.pth` or safetensors.
        form: a key of `SUFFIXES`.
        output: the file; default: beside the model, under its name.
        arch: name of the network that the weights belong to, as for plan.py.
        arguments: of the network, `key=value` each.
        opset: of an ONNX file; default: 20.
        half: weights and computation in fp16.
        licence: stated in the file; default: what the model states.
        tolerance: largest difference allowed; default: 1e-4, with `half` 1e-2.

    Raises:
        UserError: the model cannot be read, does not fit `arch`, cannot be exported, or the export disagrees.
        OSError: the file cannot be written.
    """
    _check_choices(form, opset, licence, tolerance)
    path = _target(Path(model), form, output, half)
    network, known = _foreign(model, arch, arguments) if arch else _ours(model, arguments)
    facts = describe_facts(network, {**known, **({"licence": licence} if licence else {})}, half)
    options = {"half": half, "tolerance": tolerance}
    try:
        label, agreement = _FORMS[form](network, path, facts, opset, options)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Exported(path, facts, label, agreement)


def describe_facts(
    network: nn.Module, known: Mapping[str, Any], half: bool = False
) -> dict[str, Any]:
    """Return what is said about a network in exported files, see `onnx_metadata.KEYS`.

    Args:
        network: of `dhp_sr.archs`, or with an origin.
        known: facts of its model file; multiply-adds are counted where they are missing.
        half: whether the export computes in fp16.
    """
    facts = {key: known.get(key) for key in FACTS}
    if facts["macs"] is None:
        facts["macs_input"] = image_shape(network, *example_shape(network)[2:])
        facts["macs"] = complexity(network, facts["macs_input"]).macs
    own = {
        key: value for key, value in describe(network).items() if key not in ("arguments", "widths")
    }
    field = receptive_field(network, network.in_channels, network.size_multiple)
    return {
        **own,
        **{key: value or None for key, value in facts.items()},
        "out_channels": out_channels(network),
        "halo": field.halo,
        "tile_multiple": None if field.halo is None else field.multiple,
        "bytes_per_pixel": round(
            peak_activation_bytes(network, network.in_channels, network.size_multiple) or 0
        )
        or None,
        "precision": "fp16" if half else "fp32",
    }


def report(done: Exported) -> str:
    """Return what was written, and how far it is from PyTorch."""
    facts, size = done.facts, done.path.stat().st_size / 2**20
    scale = f" x{facts['scale']}" if facts["scale"] > 1 else ""
    sides = _sides_text(facts)
    checks = ", ".join(
        f"{value:.2g} at {size_text(shape)}" for shape, value in done.agreement.differences.items()
    )
    return (
        f"{done.path}: {facts['architecture']}{scale}, {done.form}, {facts['precision']}, {size:.2f} MiB\n"
        f"  input: {facts['in_channels']} channel(s), {facts['colour']}, values 0 to 1{sides}\n"
        f"  largest difference to PyTorch: {done.agreement.largest:.2g} ({checks}); allowed: "
        f"{done.agreement.tolerance:g}\n"
    )


def _sides_text(facts: Mapping[str, Any]) -> str:
    if facts.get("input_size"):
        return f", height and width from {facts['input_size']} on"
    multiple = facts["size_multiple"]
    return (
        f", height and width in multiples of {multiple}"
        if multiple > 1
        else ", any height and width"
    )


def _check_choices(
    form: str, opset: int | None, licence: str | None, tolerance: float | None
) -> None:
    if opset is not None and form != "onnx":
        raise UserError(f"--opset: no effect with --format {form}; leave it out")
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise UserError(f"--tolerance: expected a number above 0, found {tolerance:g}")
    if licence is not None and _readable(licence) != licence:
        raise UserError(f"--licence: expected text in UTF-8, found {_readable(licence)!r}")


def _readable(text: str) -> str:
    """Return text that can be stored: bytes of an argument or a file name that are no UTF-8 become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _ours(model: str | Path, arguments: Sequence[str]) -> tuple[nn.Module, dict[str, Any]]:
    if arguments:
        raise UserError(
            f"{', '.join(arguments)}: no effect without --arch; a model file says what its network is"
        )
    return load_model(model).float(), read_manifest(model)


def _foreign(
    model: str | Path, arch: str, arguments: Sequence[str]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a dense network with the weights of a file of another project."""
    given, weights = named_arguments(arguments), load_weights(model)
    _check_fit(model, arch, given, weights)
    network = build_named(arch, given).eval()
    if full_name(arch) not in ARCHS:
        describe_by_output(network, arch, given)
    try:
        load_into(network, weights)
    except ModelFileError as error:
        raise ModelFileError(f"{model}: {error}") from error
    return network.float(), {"parent": _readable(Path(model).name)}


def _check_fit(
    model: str | Path, arch: str, given: Mapping[str, Any], weights: Mapping[str, torch.Tensor]
) -> None:
    """Compare shapes before the network takes memory and time, both of which wrong arguments can make boundless."""
    try:
        network = without_memory(lambda: build_named(arch, given), len(weights))
    except UserError:
        raise
    except Exception:  # a constructor that reads the values of its weights cannot do without them
        return
    try:
        check_fit(network, weights)
    except ModelFileError as error:
        raise ModelFileError(f"{model}: {error}") from error


def _target(model: Path, form: str, output: str | Path | None, half: bool) -> Path:
    path = (
        Path(output)
        if output
        else model.with_name(f"{model.stem}{'_fp16' if half else ''}{SUFFIXES[form]}")
    )
    if path.suffix != SUFFIXES[form]:
        raise UserError(
            f"--output: expected a name that ends with {SUFFIXES[form]}, found {path.name}"
        )
    if path.is_dir():
        raise UserError(f"--output {path}: expected the name of a file, found a folder")
    if path.exists() and path.resolve() == model.resolve():
        raise UserError(f"{path}: would replace the model itself; give another name as --output")
    return path


def _shape(network: nn.Module) -> tuple[int, int, int, int]:
    multiple = network.size_multiple
    height = max(passing_side(network), 2 * multiple, round_up(LEAST_SIDE, multiple))
    return 2, network.in_channels, height, height + 2 * multiple


def _to_onnx(
    network: nn.Module, path: Path, facts: Mapping[str, Any], opset: int | None, options: Any
) -> Any:
    options = {**options, "opset": opset or OPSET, "size_multiple": network.size_multiple}
    return f"ONNX, opset {opset or OPSET}", export_onnx(
        network, path, _shape(network), facts=facts, **options
    )


def _to_pt2(
    network: nn.Module, path: Path, facts: Mapping[str, Any], opset: int | None, options: Any
) -> Any:
    texts = pack_metadata(facts)
    options = {**options, "size_multiple": network.size_multiple}
    return "torch.export", export_pt2(network, path, _shape(network), facts=texts, **options)


def _to_safetensors(
    network: nn.Module, path: Path, facts: Mapping[str, Any], opset: int | None, options: Any
) -> Any:
    source = origin_of(network)
    if not can_be_loaded(network):
        raise UserError(
            f"{source.name} is not among the networks that model files can name; see dhp_sr.deploy.register"
        )
    stored = {key: facts[key] for key in FACTS if facts[key] is not None}
    dtype = torch.float16 if options["half"] else torch.float32
    tolerance = allowed(options["half"], options["tolerance"])
    with atomic_path(path) as temporary:
        save_model(copy.deepcopy(network).to(dtype), temporary, **stored)
        loaded = load_model(temporary).float()
        shapes = unseen_shapes(_shape(network), network.size_multiple)
        return "safetensors", compare(network, loaded, shapes, tolerance)


_FORMS = {"onnx": _to_onnx, "pt2": _to_pt2, "safetensors": _to_safetensors}
