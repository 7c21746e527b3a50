"""Models in the formats of other programs. The service of export.py."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from dhp_sr.cli.calibration import calibration_images, drawn_images
from dhp_sr.cli.export_formats import EXPORT_FORMATS, ExportOptions
from dhp_sr.cli.process import plain_warnings
from dhp_sr.deploy.manifest import FACTS, describe
from dhp_sr.deploy.model_info import info_of
from dhp_sr.deploy.runner import with_tiles
from dhp_sr.deploy.verify import Agreement, shape_text
from dhp_sr.metrics import complexity
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.files import remove_stale_parts
from dhp_sr.utils.overwriting import check_outputs
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.zoo.from_file import load_own_network, load_third_party_network, valid_utf8
from dhp_sr.zoo.model_zoo import PREFIX, asks_for_listing, resolve_model, zoo_listing
from dhp_sr.zoo.names import register_known
from dhp_sr.zoo.networks import example_shape, image_shape


@dataclass(frozen=True)
class Exported:
    """Result of an export."""

    path: Path
    facts: JsonObject
    """Facts as in the metadata of ONNX files, see `onnx_metadata.KEYS`."""
    format_label: str
    """`ONNX, opset 20` or the like."""
    agreement: Agreement


def run_export(arguments: argparse.Namespace) -> None:
    """Run export.py with arguments of `model_parsers.export_parser`.

    Raises:
        UserError: As for `export_model`.
        OSError: The file cannot be written.
    """
    if asks_for_listing(arguments.model):
        print(zoo_listing(), end="")
        return
    if arguments.format is None:
        raise UserError(f"--format: expected one of {', '.join(EXPORT_FORMATS)}; see --help")
    register_known()
    options = ExportOptions(
        arguments.opset,
        arguments.half,
        arguments.license,
        arguments.tolerance,
        int8=arguments.int8,
        calibration=arguments.calibration,
        sigma=arguments.sigma,
        max_loss=arguments.max_loss,
        qat_steps=arguments.qat_steps,
    )
    with plain_warnings():
        exported = export_model(
            arguments.model,
            arguments.format,
            arguments.output,
            options,
            arch=arguments.arch,
            arguments=arguments.arguments,
        )
    print(export_text(exported), end="")


def export_model(
    model: str | Path,
    file_format: str,
    output: str | Path | None = None,
    options: ExportOptions | None = None,
    *,
    arch: str | None = None,
    arguments: Sequence[str] = (),
) -> Exported:
    """Write a model in another format, verified against PyTorch at sizes the export has not seen.

    Args:
        model: Model file of ours, or `zoo:NAME`; or, with `arch`, weights of a dense network:
            `.pth` or safetensors.
        file_format: Key of `EXPORT_FORMATS`.
        output: The file; default: beside the model, under its name; of a zoo model, in the
            current folder.
        options: Further choices.
        arch: Name of the network that the weights belong to, as for plan.py.
        arguments: Arguments of the network, `key=value` each.

    Raises:
        UserError: The model cannot be read, does not fit `arch`, cannot be exported, or the
            export computes something else.
        OSError: The file cannot be written.
    """
    options = options or ExportOptions()
    check_options(file_format, options)
    source = resolve_model(model)
    if output is None and str(model).startswith(PREFIX):
        # Not beside the file, which lies in the installed package.
        output = Path(f"{source.stem}{options.file_ending}{EXPORT_FORMATS[file_format].suffix}")
    # Everything that needs no model is checked first: loading and tracing take minutes.
    path = output_path(source, file_format, output, options.file_ending)
    if arch:
        network, known = load_third_party_network(source, arch, arguments)
    else:
        network, known = load_own_network(source, arguments)
    if options.license:
        # The key of the first model files, which older versions look for.
        known["licence"] = options.license
    facts = describe_facts(network, known, options.precision)
    if options.calibration is not None:
        images = calibration_images(network, options.calibration, options.sigma)
        drawn = drawn_images(network, options.sigma)
        options = replace(options, images=images, drawn_images=drawn)
    # Writers report what is wrong with the network; the user also needs to know which file.
    try:
        label, agreement = EXPORT_FORMATS[file_format].write(network, path, facts, options)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Exported(path, facts, label, agreement)


def describe_facts(network: nn.Module, known: JsonObject, precision: str = "fp32") -> JsonObject:
    """Return the description of a network for exported files, see `onnx_metadata.KEYS`.

    Args:
        network: Network of `dhp_sr.archs`, or with a `ModelInfo`.
        known: Facts of its model file; multiply-adds are counted where they are missing.
        precision: `fp32`, `fp16` or `int8`, of weights and computation.
    """
    # Empty scores and texts are omitted, as metadata has no null.
    facts: JsonObject = {key: known.get(key) or None for key in FACTS}
    # A file of another project does not state its multiply-adds.
    if facts["macs"] is None:
        shape = image_shape(network, *example_shape(network)[2:])
        facts["macs_input"] = shape
        facts["macs"] = complexity(network, shape).macs
    described = describe(network)
    # Too long for metadata, and a graph needs neither.
    del described["arguments"], described["widths"]
    info = with_tiles(info_of(network), network)
    facts |= {**described, "out_channels": info.out_channels}
    if info.sizes.lower_limit > info.sizes.multiple:
        facts["smallest_side"] = info.sizes.lower_limit
    if info.tiles is not None:
        facts["halo"] = info.tiles.halo
        facts["bytes_per_pixel"] = round(info.tiles.bytes_per_pixel)
        # An alignment without a halo would promise tiles that do not exist.
        if info.tiles.halo is not None:
            facts["tile_multiple"] = info.tiles.multiple
    facts["precision"] = precision
    return facts


def export_text(exported: Exported) -> str:
    """Return a summary for the terminal: the file, its input, its difference to PyTorch."""
    facts = exported.facts
    mebibytes = exported.path.stat().st_size / 2**20
    scale = f" x{facts['scale']}" if facts["scale"] > 1 else ""
    sizes = "any height and width"
    if facts.get("input_size"):
        sizes = f"height and width from {facts['input_size']} on"
    elif facts["size_multiple"] > 1:
        sizes = f"height and width in multiples of {facts['size_multiple']}"
    if facts.get("smallest_side"):
        sizes += f", at least {facts['smallest_side']}"
    differences = exported.agreement.differences.items()
    checks = ", ".join(f"{value:.2g} at {shape_text(shape)}" for shape, value in differences)
    note = f"  {facts['precision']}: {exported.agreement.note}\n" if exported.agreement.note else ""
    return (
        f"{exported.path}: {facts['architecture']}{scale}, {exported.format_label}, "
        f"{facts['precision']}, {mebibytes:.2f} MiB\n"
        f"  input: {facts['in_channels']} channel(s), {facts['colour']}, values 0 to 1, {sizes}\n"
        f"  largest difference to PyTorch: {exported.agreement.largest:.2g} ({checks}); allowed: "
        f"{exported.agreement.tolerance:g}\n"
        f"{note}"
    )


def check_options(file_format: str, options: ExportOptions) -> None:
    """Check choices that do not depend on the model.

    Raises:
        UserError: A choice has no effect or is out of range.
    """
    tolerance = options.tolerance
    if options.opset is not None and file_format != "onnx":
        raise UserError(f"--opset: no effect with --format {file_format}; omit it")
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise UserError(f"--tolerance: expected a number above 0, got {tolerance:g}")
    check_int8(file_format, options)
    # An argument in another encoding would fail in the writer, after minutes of tracing.
    if options.license is not None and valid_utf8(options.license) != options.license:
        raise UserError(f"--license: expected text in UTF-8, got {valid_utf8(options.license)!r}")


def check_int8(file_format: str, options: ExportOptions) -> None:
    """Check the choices of quantization.

    Raises:
        UserError: A choice is missing, has no effect or is out of range.
    """
    # Refused, not ignored: a file in fp32 must not be taken for a quantized one.
    if not options.int8:
        for name in ("calibration", "sigma", "max_loss", "qat_steps"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name}: no effect without --int8; omit it")
        return
    if not EXPORT_FORMATS[file_format].has_int8:
        suitable = [name for name, row in EXPORT_FORMATS.items() if row.has_int8]
        raise UserError(f"--int8: expected --format {' or '.join(suitable)}, got {file_format}")
    if options.half:
        raise UserError("--int8 and --half: expected only one of them")
    if options.calibration is None:
        raise UserError("--int8: expected --calibration FOLDER of ground-truth images")
    if options.max_loss is not None and not 0 <= options.max_loss < math.inf:
        raise UserError(f"--max_loss: expected a number from 0, got {options.max_loss:g}")
    if options.qat_steps is not None and options.qat_steps < 0:
        raise UserError(f"--qat_steps: expected a number from 0, got {options.qat_steps}")


def output_path(model: Path, file_format: str, output: str | Path | None, ending: str) -> Path:
    """Return the path of the exported file; what a killed export left there is removed.

    Raises:
        UserError: It has another suffix, is a folder, or a file would be replaced that is no
            earlier export.
    """
    suffix = EXPORT_FORMATS[file_format].suffix
    default = model.with_name(f"{model.stem}{ending}{suffix}")
    path = Path(output or default)
    if path.suffix != suffix:
        raise UserError(f"--output: expected a name that ends with {suffix}, got {path.name}")
    check_outputs({"--output": path}, [model])
    was_killed = bool(remove_stale_parts([path]))
    for ending in EXPORT_FORMATS[file_format].beside:
        beside = path.with_suffix(ending)
        check_outputs({"--output": beside}, [model])
        # Nobody named it: without the file that it belongs to, it is somebody else's, or that of
        # an export that was killed between the two.
        if beside.exists() and not path.exists() and not was_killed:
            raise UserError(
                f"--output {path}: is written with {beside}, which is there already and belongs "
                f"to no {path.name}; give another name"
            )
    return path
