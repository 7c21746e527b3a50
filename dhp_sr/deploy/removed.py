"""Layers that a network has lost with its removed branches, as a model file lists them."""

from collections.abc import Mapping

from torch import nn

from dhp_sr.channels.plan import Leaves
from dhp_sr.deploy.safetensors_io import ModelFileError
from dhp_sr.operators.constant_map import ConstantMap
from dhp_sr.surgery.remove import replace_module
from dhp_sr.utils.strict_json import Json

TENSORS_PER_LAYER = 4
"""Tensors that a layer has in the unpruned network, at most: of a removed one a single is left."""

_MAX_STRIDE = 64


def removed_layers(network: nn.Module) -> dict[str, dict[str, Json]]:
    """Return the layers that are removed from a network: name -> what is left, and the strides."""
    removed: dict[str, dict[str, Json]] = {}
    for name, module in network.named_modules():
        if not isinstance(module, ConstantMap):
            continue
        leaves = Leaves.BUFFER
        if module.bias is None:
            leaves = Leaves.NOTHING
        elif isinstance(module.bias, nn.Parameter):
            leaves = Leaves.BIAS
        removed[name] = {"leaves": str(leaves), "strides": list(module.strides)}
    return removed


def remove_layers(
    network: nn.Module, removed: object, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Put constants in the place of the layers that a file lists as removed, in place.

    Args:
        network: The network that the file's class and arguments describe, on the meta device.
        removed: Removed layers of the manifest; None where nothing is removed.
        shapes: Shapes of every tensor of the file, by key.

    Raises:
        ModelFileError: An entry is malformed, names no layer, or lacks its constant.
    """
    if removed is None:
        return
    if not isinstance(removed, dict):
        raise ModelFileError("manifest: expected removed layers by name")
    layers = dict(network.named_modules())
    for name, entry in removed.items():
        layer = layers.get(name)
        # The root has an empty name; a layer has no modules inside.
        if layer is None or not name or next(layer.children(), None) is not None:
            raise ModelFileError(
                f"manifest: removed layer {name[:99]!r} is no layer of the network"
            )
        replace_module(network, name, _constant(name, entry, shapes))


def _constant(name: str, entry: object, shapes: Mapping[str, tuple[int, ...]]) -> ConstantMap:
    """Return the constant in the place of a layer, without memory for its values."""
    entry = entry if isinstance(entry, dict) else {}
    strides = entry.get("strides")
    if not isinstance(strides, list) or len(strides) > 3 or not all(map(_is_stride, strides)):
        raise ModelFileError(f"manifest: expected up to 3 strides of removed layer {name!r}")
    leaves = entry.get("leaves")
    if leaves not in list(Leaves):
        raise ModelFileError(f"manifest: it is unknown what removed layer {name!r} leaves")
    channels = 0
    if leaves != Leaves.NOTHING:
        shape = shapes.get(f"{name}.bias", ())
        if len(shape) != 1:
            raise ModelFileError(f"missing: {name}.bias, what is left of a removed layer")
        channels = shape[0]
    return ConstantMap(channels, strides, trainable=leaves == Leaves.BIAS, device="meta")


def _is_stride(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_STRIDE
