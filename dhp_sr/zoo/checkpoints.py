"""Recognition of a checkpoint's network: ours, our classes by shapes, spandrel's, by name.

Training programs wrap weights (`module.`, `generator.`, ...). Some of these prefixes are also names
of layers, so every reading is tried, the plainest first: a reading is the weights of the file under
a guess of what was wrapped around them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from dhp_sr.archs import ARCHS, described
from dhp_sr.deploy import ModelFileError, load_into, load_weights
from dhp_sr.deploy.model_info import attach_info, attached_info, construct, info_of
from dhp_sr.deploy.safetensors_io import DESCRIPTION, looks_like_safetensors, open_tensors
from dhp_sr.deploy.weights import check_fit, reading_for
from dhp_sr.deploy.wrappings import Reading, check_finite, first_names, possible_readings
from dhp_sr.surgery.rewrite import RewrittenNetwork
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.strict_json import JsonObject
from dhp_sr.zoo.from_file import check_weight_shapes, load_own_network
from dhp_sr.zoo.names import FILE, build_named, full_name, named_arguments
from dhp_sr.zoo.own_classes import own_candidates
from dhp_sr.zoo.spandrel_networks import Detected, detect_networks
from dhp_sr.zoo.third_party import describe_by_output

SPANDREL = "spandrel"

MAX_MISFIT_LINES = 8
"""Shown of how weights differ from a class that they are almost of."""


@dataclass
class Checkpoint:
    """A dense network with the weights of a file, and how to build it again."""

    network: nn.Module
    """Network in float32 and evaluation mode, with its `ModelInfo`."""
    name: str
    """Name for `names.build_named`."""
    arguments: JsonObject
    """Arguments of the constructor."""
    title: str
    """Description for people."""
    notes: list[str] = field(default_factory=list)
    """Lines on what was found out on the way: prefixes, keys that were left out."""


def open_checkpoint(
    path: Path, arch: str | None = None, arguments: Sequence[str] = ()
) -> Checkpoint:
    """Find out what a checkpoint is, and load it.

    Args:
        path: A model file of ours; or weights as safetensors, .pth or .ckpt.
        arch: Name of the network; `spandrel:ID` for an architecture of spandrel, whose settings
            are read from the weights; `path/to/net.py:CLASS` for a class of the user. None: found
            out from the weights.
        arguments: Arguments of the constructor, `key=value` each, the value in YAML.

    Raises:
        UserError: Nothing knows the file, several architectures fit, or `arch` does not.
    """
    if arch is None and arguments:
        raise UserError(f"{', '.join(arguments)}: no effect without --arch")
    if arch is None and is_model_file(path):
        return _open_own(path)
    weights = load_weights(path)
    is_spandrel = arch is not None and arch.partition(":")[0] == SPANDREL and "." not in arch
    if arch is not None and not is_spandrel:
        return _open_named(path, weights, arch, named_arguments(arguments))
    readings = list(possible_readings(weights))
    if arch is None:
        return _detect(path, readings)
    return _detect_spandrel(path, readings, arch.partition(":")[2])


def is_model_file(path: Path) -> bool:
    """Return whether a file describes its network, as ours do."""
    if not path.is_file() or not looks_like_safetensors(path):
        return False
    with open_tensors(path) as file:
        metadata = file.metadata() or {}
        return metadata.get("format") == "dhp_sr" or DESCRIPTION in set(file.keys())


def _open_own(path: Path) -> Checkpoint:
    """Load a model file of ours, dense or pruned."""
    network, manifest = load_own_network(path, ())
    try:
        return checkpoint_of_own(network)
    except UserError as error:
        parent = manifest.get("parent") or "not stated in the file"
        raise UserError(f"{path}: {error} ({parent})") from error


def checkpoint_of_own(network: nn.Module) -> Checkpoint:
    """Describe a network of a registered class, dense or pruned.

    No constructor makes a pruned one: its name is `names.FILE`, and who builds it again adds the
    path of a file that was written for it.

    Raises:
        UserError: It is a pruned network that cannot be pruned again.
    """
    info = info_of(network)
    title = f"{info.architecture}, a model file of dhp_sr"
    checkpoint = Checkpoint(network, info.architecture, dict(info.arguments), title)
    fresh = construct(info.architecture, info.arguments)
    try:
        check_fit(fresh, network.state_dict())
    except ModelFileError as error:
        # Its numbers are those of a plan of the dense network, which its file refers to.
        if isinstance(network, RewrittenNetwork):
            raise UserError(
                f"a pruned {info.architecture} with other numbers in its forward, which cannot be "
                "pruned again; compress the dense network that it comes from to a smaller target"
            ) from error
        notes = [f"it is a pruned {info.architecture}: the target is a fraction of what it is now"]
        return replace(checkpoint, name=FILE, arguments={}, notes=notes)
    return checkpoint


def _open_named(
    path: Path, weights: Mapping[str, Tensor], arch: str, arguments: JsonObject
) -> Checkpoint:
    """Load a network by name."""
    try:
        check_weight_shapes(path, arch, arguments, weights)
        network = build_named(arch, arguments).eval()
        reading = reading_for(network, weights)
        load_into(network, reading.weights)
    except ModelFileError as error:
        text = str(error)
        if str(path) not in text:
            text = f"{path}: {text}"
        raise UserError(
            f"{text}\ncorrect --arch (={arch}) or its arguments (={arguments})"
        ) from error
    if full_name(arch) not in ARCHS:
        describe_by_output(network, arch, arguments)
    notes = [reading.note] if reading.note else []
    return Checkpoint(network.float(), arch, arguments, arch, notes)


def _detect(path: Path, readings: Sequence[Reading]) -> Checkpoint:
    """Find the class that weights belong to: ours first, whose arguments follow from the shapes."""
    misfits: dict[str, str] = {}
    for reading in readings:
        for name, arguments in own_candidates(reading.weights):
            try:
                network = build_named(name, arguments).eval()
                check_fit(network, reading.weights)
            except UserError as error:
                # Keys like those of our class, whose constructor may refuse what their shapes say;
                # another reading or class may still fit. The plainest reading tells most.
                lines = str(error).splitlines()
                misfits.setdefault(name, "\n".join(lines[:MAX_MISFIT_LINES]))
                continue
            try:
                load_into(network, reading.weights)
            except ModelFileError as error:
                raise UserError(f"{path}: {error}") from error
            notes = [reading.note] if reading.note else []
            stated = dict(described(network).arguments)
            return Checkpoint(network.float(), name, stated, name, notes)
    return _detect_spandrel(path, readings, None, list(misfits.values()))


def _detect_spandrel(
    path: Path,
    readings: Sequence[Reading],
    architecture: str | None,
    misfits: Sequence[str] = (),
) -> Checkpoint:
    """Let spandrel find the class that weights belong to.

    Args:
        path: Path of the file, for messages.
        readings: The weights, the plainest reading first.
        architecture: The only one that is meant; None: any.
        misfits: Why classes that were tried before do not fit.
    """
    all_misfits = list(misfits)
    for reading in readings:
        detected, further = detect_networks(reading.weights, architecture)
        all_misfits += further
        if len(detected) > 1:
            names = ", ".join(candidate.title for candidate in detected)
            # Names are `spandrel:ID.CLASS`; --arch takes the ID.
            ids = [candidate.name.split(":")[1].split(".")[0] for candidate in detected]
            ids_text = " or ".join(f"--arch {SPANDREL}:{name}" for name in ids)
            raise UserError(f"{path}: several architectures fit: {names}; say which: {ids_text}")
        if detected:
            notes = [reading.note] if reading.note else []
            try:
                check_finite(reading.weights)
            except ModelFileError as error:
                raise UserError(f"{path}: {error}") from error
            return _from_detected(detected[0], notes)
    raise UserError(_unknown_text(path, readings[0].weights, all_misfits))


def _unknown_text(path: Path, weights: Mapping[str, Tensor], misfits: Sequence[str]) -> str:
    """Say what a file holds that nothing recognizes, and what to do."""
    keys = list(weights)
    shown = ", ".join(f"{key} {tuple(weights[key].shape)}" for key in keys[:4])
    text = (
        f"{path}: none of the known architectures has these {len(keys)} weights ({shown}, ...); "
        "name its class: --arch NAME, or --arch path/to/net.py:CLASS key=value ..."
    )
    names = first_names(keys)
    if 1 < len(names) <= 4:
        text += f"\n  keys begin with {', '.join(f'{name}.' for name in names)}: several networks?"
    for misfit in misfits:
        text += f"\n  recognized by its keys, but does not fit: {misfit}"
    return text


def _from_detected(detected: Detected, notes: list[str]) -> Checkpoint:
    """Describe a network of spandrel, whose scale must be what spandrel says."""
    network = detected.network.float()
    # Spandrel states the enlargement; the sizes that pass are tried in any case.
    describe_by_output(
        network, detected.name, {**detected.arguments, "num_in_ch": detected.in_channels}
    )
    info = attached_info(network)
    assert info is not None, "just attached"
    if info.scale != detected.scale:
        raise UserError(
            f"{detected.title}: enlarges {info.scale} times where spandrel says {detected.scale}"
        )
    attach_info(network, replace(info, arguments=detected.arguments))
    return Checkpoint(network, detected.name, detected.arguments, detected.title, notes)
