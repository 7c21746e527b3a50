"""Give the layers of a plain network other numbers of channels.

Only channel axes may change. Sizes of kernels, the number of axes and the layers themselves stay: those are given by
the network's class and its arguments, while the widths are read from a list of shapes (a model file, a plan of cuts).
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.names import nearest

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Replacements = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""id of an old tensor -> (that tensor, kept alive so that its id stays its own; the new one)."""


def resize(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Make every tensor of `network` have the shape given for it, and tell its layer the new widths, in place.

    A tensor whose shape changes is replaced by an empty one (same dtype, device and `requires_grad`): its values are
    undefined until weights are loaded. Tensors that keep their shape, or are not named in `shapes`, are left alone.
    A depthwise convolution stays depthwise; a grouped one loses or gains whole groups where its channels per group stay
    the same, else it keeps the number of groups.

    Args:
        network: a plain network, on any device, `meta` included.
        shapes: shape of every tensor to change, by its key in `network.state_dict()`.

    Raises:
        UserError: a key that the network does not have, or a shape that its layer cannot take; all of them are listed.
    """
    own = {key: tuple(tensor.shape) for key, tensor in network.state_dict(keep_vars=True).items()}
    wanted = {key: tuple(int(side) for side in shape) for key, shape in shapes.items()}
    problems = [
        f"{key}: the network has no such tensor{nearest(key, own)}"
        for key in wanted
        if key not in own
    ]
    new_tensors: Replacements = {}
    for path, module in network.named_modules(remove_duplicate=False):
        try:
            _resize_module(module, f"{path}." if path else "", wanted, new_tensors)
        except _UnfitError as error:
            problems.append(str(error))
    if problems:
        raise UserError(
            "the network cannot be resized to the given shapes:\n  " + "\n  ".join(problems)
        )


class _UnfitError(Exception):
    """One layer that cannot take the shapes given for it."""


def _resize_module(
    module: nn.Module, prefix: str, wanted: Mapping[str, Shape], new_tensors: Replacements
) -> None:
    tensors = _own_tensors(module)
    old = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    new = {name: wanted.get(prefix + name, shape) for name, shape in old.items()}
    if new == old:
        return
    for name in old:
        _check_axes(prefix + name, old[name], new[name])
    for name, shape in _apply_widths(module, prefix, old, new).items():
        if new[name] != shape:
            raise _UnfitError(
                f"{prefix}{name}: expected {shape} beside the layer's other tensors, found {new[name]}"
            )
    for name, tensor in tensors.items():
        if new[name] != old[name]:
            setattr(module, name, _empty_like(tensor, new[name], prefix + name, new_tensors))


def _own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {
        name: tensor for name, tensor in named if name not in module._non_persistent_buffers_set
    }


def _check_axes(key: str, old: Shape, new: Shape) -> None:
    if len(old) != len(new):
        raise _UnfitError(f"{key}: expected {len(old)} axes like {old}, found {new}")
    if new != old and min(new) < 1:
        raise _UnfitError(f"{key}: expected at least one channel, found {new}")


def _empty_like(
    tensor: torch.Tensor, shape: Shape, key: str, new_tensors: Replacements
) -> torch.Tensor:
    """Return the tensor that replaces `tensor`; one that several layers share is replaced once, so it stays shared."""
    if id(tensor) in new_tensors:
        _, replacement = new_tensors[id(tensor)]
        if tuple(replacement.shape) != shape:
            raise _UnfitError(
                f"{key}: shared with another layer that asks for {tuple(replacement.shape)}, found {shape}"
            )
        return replacement
    replacement = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
    if isinstance(tensor, nn.Parameter):
        replacement = nn.Parameter(replacement, requires_grad=tensor.requires_grad)
    new_tensors[id(tensor)] = (tensor, replacement)
    return replacement


def _apply_widths(module: nn.Module, prefix: str, old: Shapes, new: Shapes) -> Shapes:
    """Set the width attributes of `module` and return the shapes its tensors must have to go with them."""
    for kind, rule in _RULES.items():
        if isinstance(module, kind):
            return rule(module, prefix, old, new)
    if type(module).__module__.startswith("torch.nn.") and not isinstance(module, _BARE):
        raise _UnfitError(
            f"{prefix[:-1]}: layers of type {type(module).__name__} cannot be resized"
        )
    return {}


def _resize_conv(layer: nn.Module, prefix: str, old: Shapes, new: Shapes) -> Shapes:
    """Convolution; weight (out, in / groups, *kernel), transposed (in, out / groups, *kernel)."""
    if old["weight"][2:] != new["weight"][2:]:
        raise _UnfitError(
            f"{prefix}weight: expected a kernel of {old['weight'][2:]}, found {new['weight'][2:]}"
        )
    transposed = isinstance(layer, _ConvTransposeNd)
    whole, per_group = new["weight"][
        :2
    ]  # channels of the undivided side, and channels of the other side per group
    groups = _groups(layer.groups, old["weight"], new["weight"], transposed)
    if whole % groups:
        raise _UnfitError(
            f"{prefix}weight: expected a first axis divisible by groups={groups}, found {new['weight']}"
        )
    layer.groups = groups
    layer.in_channels, layer.out_channels = (
        (whole, per_group * groups) if transposed else (per_group * groups, whole)
    )
    return {name: (layer.out_channels,) for name in new if name == "bias"}


def _groups(groups: int, old: Shape, new: Shape, transposed: bool) -> int:
    """SizePatch of groups after the change: a depthwise convolution loses groups, any other narrows all of them alike."""
    channels_per_group = old[0] // groups
    depthwise = channels_per_group == 1 if transposed else old[1] == 1
    if groups > 1 and depthwise and old[1] == new[1] and new[0] % channels_per_group == 0:
        return new[0] // channels_per_group
    return groups


def _resize_linear(layer: nn.Module, prefix: str, old: Shapes, new: Shapes) -> Shapes:
    layer.out_features, layer.in_features = new["weight"]
    return {name: (layer.out_features,) for name in new if name == "bias"}


def _resize_norm(layer: nn.Module, prefix: str, old: Shapes, new: Shapes) -> Shapes:
    """Batch and instance normalization: one number per channel in every tensor but the counter of batches."""
    vectors = [name for name, shape in old.items() if len(shape) == 1]
    layer.num_features = new[vectors[0]][0]
    return {name: (layer.num_features,) for name in vectors}


def _resize_group_norm(layer: nn.Module, prefix: str, old: Shapes, new: Shapes) -> Shapes:
    """Group normalization gains or loses whole groups, since each takes its statistics over all of its channels."""
    channels, per_group = new["weight"][0], layer.num_channels // layer.num_groups
    if channels % per_group:
        raise _UnfitError(
            f"{prefix}weight: expected a multiple of {per_group} channels, found {channels}"
        )
    layer.num_channels, layer.num_groups = channels, channels // per_group
    return dict.fromkeys(new, (channels,))


def _resize_layer_norm(layer: nn.Module, prefix: str, old: Shapes, new: Shapes) -> Shapes:
    layer.normalized_shape = new["weight"]
    return dict.fromkeys(new, new["weight"])


def _resize_prelu(layer: nn.Module, prefix: str, old: Shapes, new: Shapes) -> Shapes:
    layer.num_parameters = new["weight"][0]
    return {}


_RULES: dict[type[nn.Module], Callable[[nn.Module, str, Shapes, Shapes], Shapes]] = {
    _ConvNd: _resize_conv,
    nn.Linear: _resize_linear,
    _NormBase: _resize_norm,
    nn.GroupNorm: _resize_group_norm,
    nn.LayerNorm: _resize_layer_norm,
    nn.PReLU: _resize_prelu,
}

_BARE = (nn.ParameterList, nn.ParameterDict)
"""Holders of bare parameters: they have no widths to keep in step."""
