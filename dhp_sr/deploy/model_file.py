"""A model as one file: saved, described, loaded again by any process that has the plain networks."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dhp_sr.archs import ARCHS
from dhp_sr.deploy.checksum import CHECKSUM, check_sum, checksum
from dhp_sr.deploy.embedded_manifest import embed
from dhp_sr.deploy.manifest import pack, unpack
from dhp_sr.deploy.rebuild import rebuild
from dhp_sr.deploy.safetensors_io import (
    DESCRIPTION,
    ModelFileError,
    open_tensors,
    read_description,
    read_shapes,
    read_tensors,
    write_tensors,
)
from dhp_sr.deploy.third_party import Origin, builder, mark, origin_of
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.modules import load_values


def save_model(
    network: nn.Module, path: str | Path, *, origin: Origin | None = None, **facts: Any
) -> None:
    """Write `network`, dense or pruned, to one self-describing safetensors file.

    The file appears whole or not at all, and the same network and facts give the same bytes. Before anything is
    written, the network is rebuilt from the description alone, so that a file that is written can be loaded.

    Args:
        network: a network of `dhp_sr.archs`, of any widths, on any device, weights of one floating-point type; or one
            of another package, with its `origin`.
        path: the file, usually `*.safetensors`; folders above it are made.
        origin: what rebuilds a network of another package; a network that was loaded has one.
        **facts: what else is known, as JSON-able values: `macs` with `macs_input` (the input's shape, NCHW), `scores`,
            `parent`, `licence`, `groups`, ... They come back from `read_manifest`.

    Raises:
        UserError: the network is not one of `dhp_sr.archs` and has no registered origin, was changed so that its
            description does not give it again, or a fact cannot be stored.
        OSError: the file cannot be written.
    """
    if origin is not None:
        mark(network, origin)
    metadata = _metadata(network, facts, f"{path}: not saved, since it could not be loaded again")
    tensors = {**network.state_dict(), DESCRIPTION: embed(metadata)}
    write_tensors(path, tensors, {**metadata, CHECKSUM: checksum(metadata, tensors)})


def check_saved(network: nn.Module) -> None:
    """Find out, without a file, whether `save_model` would save a network.

    Raises:
        UserError: it would not, as it could not be loaded again.
    """
    _metadata(
        network, {}, f"{type(network).__name__} cannot be saved so that it could be loaded again"
    )


def load_model(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Return the network of a file that `save_model` wrote, in eval mode.

    Nothing in the file is executed. The network is checked before its weights are read, and never takes more memory
    than the file holds.

    Args:
        path: the file.
        device: where to put the network.

    Raises:
        ModelFileError: the file is of another kind, damaged, of a newer format, or its description and tensors do not
            agree; missing, unexpected and wrong-shape keys are listed.
    """
    with open_tensors(path) as file:
        network, tensors = rebuild(unpack(file.metadata()), read_shapes(file)), read_tensors(file)
        filled = fill(network, tensors)
        check_sum(file.metadata(), {**tensors, **read_description(file)})
        return filled.to(device)


def fill(network: nn.Module, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """Return a rebuilt network with its weights, in their floating-point type.

    Args:
        network: from `rebuild`, without memory for weights.
        tensors: the weights by key; the network takes them as they are, without copies.

    Raises:
        ModelFileError: a tensor has another kind of numbers than its place, or there are several floating-point types.
    """
    _check_types(network, tensors)
    load_values(network, tensors, strict=True, assign=True)
    on_meta = [name for name, buffer in network.named_buffers() if buffer.is_meta]
    assert not on_meta, (
        f"constants without values: make {on_meta} by torch.tensor, not by torch.empty"
    )
    return network.to(device=next(iter(tensors.values())).device, dtype=_floating_type(tensors))


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Return what a model file says about its network: architecture, widths, scores and whatever else was stored.

    Only the header is read; whether the tensors agree with it is `load_model`'s check.

    Raises:
        ModelFileError: as for `load_model`.
    """
    with open_tensors(path) as file:
        return unpack(file.metadata())


def _metadata(network: nn.Module, facts: dict[str, Any], failed: str) -> dict[str, str]:
    """Return a file's description of a network, once the network was rebuilt from it."""
    _check_class(network)
    tensors, metadata = network.state_dict(), pack(network, facts)
    try:
        _floating_type(tensors)
        rebuild(unpack(metadata), {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    except ModelFileError as error:
        raise UserError(f"{failed}: {error}") from error
    return metadata


def _check_class(network: nn.Module) -> None:
    source, name = origin_of(network), type(network).__name__
    if source is not None:
        builder(source.name)
        return
    if ARCHS.get(name) is type(network):
        return
    hint = (
        "give save_model its `origin`, add its class to dhp_sr/archs, or write its state dict as safetensors; of a "
        "HyperNet give `.cut()`"
    )
    if isinstance(network, nn.parallel.DistributedDataParallel):
        hint = "give its `.module`"
    origin = f"{type(network).__module__}.{type(network).__qualname__}"
    raise UserError(
        f"expected a network of dhp_sr.archs ({', '.join(ARCHS)}), found {origin}; {hint}"
    )


def _floating_type(tensors: dict[str, torch.Tensor]) -> torch.dtype:
    """Return the one floating-point type of the weights."""
    found = {tensor.dtype: key for key, tensor in tensors.items() if tensor.is_floating_point()}
    if len(found) != 1:
        listing = ", ".join(f"{dtype} ({key})" for dtype, key in found.items())
        raise ModelFileError(
            f"expected weights of one floating-point type, found {listing or 'none'}"
        )
    return next(iter(found))


def _check_types(network: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    for key, own in network.state_dict().items():
        found = tensors[key].dtype
        if own.is_floating_point() != found.is_floating_point or (
            not own.is_floating_point() and own.dtype != found
        ):
            raise ModelFileError(f"{key}: expected {own.dtype}, found {found}")
