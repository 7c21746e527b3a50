"""Model files: a network saved with its description, and loaded without its training code.

The manifest is in the header of the file. A reduced copy lies among the tensors, for programs that
pass on tensors alone: loaders of model collections (spandrel, ComfyUI, converters) drop the
header. Widths could be read from shapes, but not the class, nor the value range of EDSR.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dhp_sr.archs import ARCHS
from dhp_sr.deploy.manifest import (
    CLASSIFIER,
    DERIVED,
    REBUILDING,
    pack,
    read_json,
    unpack,
)
from dhp_sr.deploy.model_info import (
    ModelInfo,
    attach_info,
    attached_info,
    constructor_of,
)
from dhp_sr.deploy.rebuild import rebuild
from dhp_sr.deploy.safetensors_io import (
    CHECKSUM,
    DESCRIPTION,
    ModelFileError,
    checksum,
    open_tensors,
    read_description,
    read_shapes,
    read_tensors,
    verify_checksum,
    write_tensors,
)
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import load_values
from dhp_sr.utils.strict_json import JsonObject, dump_json, parse_json

_EMBEDDED_KEYS = (*DERIVED, *CLASSIFIER, *REBUILDING)
_EMBEDDED_CHECKSUM = "crc32"
_MAX_EMBEDDED_BYTES = 2**22


def save_model(
    network: nn.Module, path: str | Path, *, info: ModelInfo | None = None, **facts: object
) -> None:
    """Write a network, dense or pruned, to a self-describing safetensors file.

    The file appears whole or not at all, and the same network and facts give the same bytes.
    Before anything is written, the network is rebuilt from its description, so that every file
    that exists can be loaded.

    Args:
        network: Network of `dhp_sr.archs`, of any widths, on any device, with weights of a single
            floating-point type; or of another package, with its `info`.
        path: The file, usually `*.safetensors`; folders above it are created.
        info: Description of a network of another package; a loaded network carries one.
        **facts: Further JSON-able values: `macs` with `macs_input` (the input's shape, NCHW),
            `scores`, `parent`, `licence`, `groups`, ... `read_manifest` returns them.

    Raises:
        UserError: The network is not of `dhp_sr.archs` and has no registered constructor, was
            changed so that its description does not rebuild it, or a fact cannot be stored.
        OSError: The file cannot be written.
    """
    if info is not None:
        attach_info(network, info)
    header = _header(network, facts, f"{path}: not saved, since it could not be loaded again")
    # The embedded manifest is a tensor for programs that pass on tensors alone.
    tensors = {**network.state_dict(), DESCRIPTION: embed(header)}
    write_tensors(path, tensors, {**header, CHECKSUM: checksum(header, tensors)})


def check_saved(network: nn.Module) -> None:
    """Check, without a file, that `save_model` would save a network.

    Raises:
        UserError: It would refuse, since the network could not be loaded again.
    """
    name = type(network).__name__
    _header(network, {}, f"{name} cannot be saved so that it could be loaded again")


def load_model(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Load the network of a file that `save_model` wrote.

    Nothing in the file is executed. The network is checked before its weights are read, and never
    takes more memory than the file holds.

    Args:
        path: The file.
        device: Where to put the network.

    Returns:
        The network in eval mode, with its `ModelInfo` attached as `info`.

    Raises:
        ModelFileError: The file is of another kind, damaged, of a newer format, or its
            description and tensors do not agree; the message lists missing, unexpected and
            wrong-shape keys.
    """
    with open_tensors(path) as file:
        # Order matters: shapes come from the header, so a hostile file is refused before its
        # weights take memory.
        network = rebuild(unpack(file.metadata()), read_shapes(file))
        tensors = read_tensors(file)
        filled = fill_weights(network, tensors)
        verify_checksum(file.metadata(), {**tensors, **read_description(file)})
        return filled.to(device)


def read_manifest(path: str | Path) -> JsonObject:
    """Return a model file's description: architecture, widths, scores and other stored facts.

    Only the header is read; whether the tensors agree with it is `load_model`'s check.

    Raises:
        ModelFileError: As for `load_model`.
    """
    with open_tensors(path) as file:
        return unpack(file.metadata())


def fill_weights(network: nn.Module, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """Put weights into a rebuilt network.

    Args:
        network: From `rebuild`, with its weights on the meta device.
        tensors: The weights by key; the network takes them without a copy.

    Returns:
        The network, in the floating-point type and on the device of the weights.

    Raises:
        ModelFileError: A tensor has another kind of numbers than the network expects, or there
            are several floating-point types.
    """
    for key, expected in network.state_dict().items():
        dtype = tensors[key].dtype
        # Any floating-point type may stand for another; integers and booleans must be exact.
        if expected.is_floating_point() and dtype.is_floating_point:
            continue
        if expected.dtype != dtype:
            raise ModelFileError(f"{key}: expected {expected.dtype}, got {dtype}")
    # assign: the weights on the meta device have no memory to copy into.
    load_values(network, tensors, strict=True, assign=True)
    on_meta = [name for name, buffer in network.named_buffers() if buffer.is_meta]
    assert not on_meta, (
        f"constants without values: make {on_meta} by torch.tensor, not by torch.empty"
    )
    device = next(iter(tensors.values())).device
    return network.to(device=device, dtype=_floating_type(tensors))


def embed(header: Mapping[str, str]) -> Tensor:
    """Return the copy of a header that lies among the tensors, without its facts.

    Returns:
        Bytes, uint8 of a single axis. A checksum covers them alone, since the weights beside them
        may be converted on their way.
    """
    manifest = parse_json(header["manifest"])
    reduced = {key: manifest[key] for key in _EMBEDDED_KEYS if key in manifest}
    text = dump_json(reduced)
    copy = {
        "format": header["format"],
        "format_version": header["format_version"],
        _EMBEDDED_CHECKSUM: _crc32(text),
        "manifest": text,
    }
    return torch.frombuffer(bytearray(dump_json(copy).encode()), dtype=torch.uint8)


def extract(tensors: Mapping[str, Tensor]) -> tuple[JsonObject, dict[str, Tensor]]:
    """Separate the embedded manifest of a state dict from its weights.

    Returns:
        The checked manifest, and the weights by key.

    Raises:
        ModelFileError: There is no manifest, or it is malformed.
    """
    copy = tensors.get(DESCRIPTION)
    if copy is None:
        raise ModelFileError(
            f"expected the key {DESCRIPTION!r} among the tensors; save the model again"
        )
    if copy.dtype != torch.uint8 or copy.dim() != 1 or copy.numel() > _MAX_EMBEDDED_BYTES:
        raise ModelFileError(
            f"{DESCRIPTION}: expected bytes, got {copy.dtype} of shape {tuple(copy.shape)}"
        )
    header = read_json(bytes(copy.cpu().numpy()), DESCRIPTION)
    texts = isinstance(header, dict) and all(isinstance(text, str) for text in header.values())
    if not texts:
        raise ModelFileError(f"{DESCRIPTION}: expected a JSON object of texts")
    manifest = unpack(header)
    # CRC-32: against damage, not against forgery, from which only the checks in `rebuild` protect.
    if header.get(_EMBEDDED_CHECKSUM) != _crc32(header["manifest"]):
        raise ModelFileError(
            f"{DESCRIPTION}: damaged, it differs from its checksum; copy the file again"
        )
    return manifest, {key: tensor for key, tensor in tensors.items() if key != DESCRIPTION}


def _crc32(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _header(network: nn.Module, facts: Mapping[str, object], refusal: str) -> dict[str, str]:
    """Return a file's header, once the network has been rebuilt from it."""
    _check_class(network)
    tensors = network.state_dict()
    header = pack(network, facts)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    # The code that will load the file, on the same header: what is written can be read.
    try:
        _floating_type(tensors)
        rebuild(unpack(header), shapes)
    except ModelFileError as error:
        raise UserError(f"{refusal}: {error}") from error
    return header


def _check_class(network: nn.Module) -> None:
    info = attached_info(network)
    if info is not None and info.package != "dhp_sr":
        constructor_of(info.architecture)
        return
    # Compared by identity: another project's class may have the same name.
    if ARCHS.get(type(network).__name__) is type(network):
        return
    hint = (
        "give save_model its `info`, add its class to dhp_sr/archs, or write its state dict as "
        "safetensors; of a HyperNet give `.cut()`"
    )
    if isinstance(network, nn.parallel.DistributedDataParallel):
        hint = "give its `.module`"
    class_name = f"{type(network).__module__}.{type(network).__qualname__}"
    raise UserError(
        f"expected a network of dhp_sr.archs ({', '.join(ARCHS)}), got {class_name}; {hint}"
    )


def _floating_type(tensors: dict[str, torch.Tensor]) -> torch.dtype:
    """Return the floating-point type that all weights share."""
    examples = {tensor.dtype: key for key, tensor in tensors.items() if tensor.is_floating_point()}
    if len(examples) != 1:
        listing = ", ".join(f"{dtype} ({key})" for dtype, key in examples.items())
        raise ModelFileError(
            f"expected weights of a single floating-point type, got {listing or 'none'}"
        )
    return next(iter(examples))
