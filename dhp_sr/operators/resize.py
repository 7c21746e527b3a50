"""Give the layers of a plain network other numbers of channels.

Only channel axes may change. Sizes of kernels, the number of axes and the layers themselves stay:
those are given by the network's class and its arguments, while the widths are read from a list of
shapes (a model file, a plan of cuts).
"""

from collections.abc import Mapping

import torch
from torch import nn

from dhp_sr.operators.narrow import set_widths
from dhp_sr.operators.registry import spec_of_module
from dhp_sr.operators.spec import CannotResize, Shape, Shapes
from dhp_sr.utils.errors import UserError, nearest

_Replacements = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""id of an old tensor -> (that tensor, kept alive so that no other takes its id; the new one)."""

_BARE = (nn.ParameterList, nn.ParameterDict)
"""Containers of bare parameters: they have no widths to keep in step."""


def resize(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give tensors of `network` other shapes, and set the widths of their layers, in place.

    A tensor whose shape changes is replaced by an empty tensor (same dtype, device and
    `requires_grad`): its values are undefined until weights are loaded. Tensors that keep their
    shape, or are not named in `shapes`, are left alone. A depthwise convolution stays depthwise; a
    grouped one loses or gains whole groups where its channels per group stay the same, else it
    keeps the number of groups.

    Args:
        network: A plain network, on any device, `meta` included.
        shapes: Shape of every tensor to change, by its key in `network.state_dict()`.

    Raises:
        UserError: A key that the network does not have, or a shape that its layer cannot take; all
            of them are listed.
    """
    keys = network.state_dict(keep_vars=True).keys()
    wanted: Shapes = {}
    problems = []
    for key, shape in shapes.items():
        wanted[key] = tuple(int(size) for size in shape)
        if key not in keys:
            problems.append(f"{key}: the network has no such tensor{nearest(key, keys)}")
    replaced: _Replacements = {}
    # Under all of its names, since shapes may be given by any of them.
    for path, module in network.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        try:
            _resize_module(module, prefix, wanted, replaced)
        except CannotResize as error:
            problems.append(f"{prefix}{error}")
    if problems:
        raise UserError(
            "the network cannot be resized to the given shapes:\n  " + "\n  ".join(problems)
        )


def _resize_module(
    module: nn.Module, prefix: str, wanted: Mapping[str, Shape], replaced: _Replacements
) -> None:
    """Resize the tensors that a module holds itself."""
    tensors: dict[str, torch.Tensor] = {}
    old: Shapes = {}
    new: Shapes = {}
    named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for name, tensor in named:
        # Buffers outside the state dict have no shape in a file or plan; a cut slices them itself.
        if name in module._non_persistent_buffers_set:
            continue
        tensors[name] = tensor
        old[name] = tuple(tensor.shape)
        new[name] = wanted.get(prefix + name, old[name])
    if new == old:
        return
    for name, shape in new.items():
        if len(old[name]) != len(shape):
            raise CannotResize(
                f"{name}: expected {len(old[name])} axes like {old[name]}, found {shape}"
            )
        if shape != old[name] and min(shape) < 1:
            raise CannotResize(f"{name}: expected at least one channel, found {shape}")
    for name, shape in _set_widths(module, old, new).items():
        if new[name] != shape:
            raise CannotResize(
                f"{name}: expected {shape} beside the layer's other tensors, found {new[name]}"
            )
    for name, tensor in tensors.items():
        if new[name] != old[name]:
            setattr(module, name, _replacement(tensor, new[name], name, replaced))


def _set_widths(module: nn.Module, old: Shapes, new: Shapes) -> Shapes:
    """Set the widths of `module`; returns the shapes that its tensors must have together."""
    spec = spec_of_module(module)
    if spec is not None and spec.resize is not None:
        return spec.resize(module, old, new)
    if type(module).__module__.startswith("torch.nn.") and not isinstance(module, _BARE):
        changed = next(name for name in old if new[name] != old[name])
        raise CannotResize(f"{changed}: layers of type {type(module).__name__} cannot be resized")
    # A module outside torch.nn holds bare parameters, whose widths it reads from their shapes, or
    # from attributes such as those of torch's layers.
    return set_widths(module, old, new)


def _replacement(
    tensor: torch.Tensor, shape: Shape, name: str, replaced: _Replacements
) -> torch.Tensor:
    """Return the tensor that replaces `tensor`."""
    # A tensor that several layers share is replaced once, so that it stays shared.
    if id(tensor) in replaced:
        _, new = replaced[id(tensor)]
        if tuple(new.shape) != shape:
            raise CannotResize(
                f"{name}: shared with another layer that asks for {tuple(new.shape)}, found {shape}"
            )
        return new
    new = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
    if isinstance(tensor, nn.Parameter):
        new = nn.Parameter(new, requires_grad=tensor.requires_grad)
    replaced[id(tensor)] = (tensor, new)
    return new


def state_width(module: nn.Module, name: str, size: int | list[int]) -> bool:
    """Set a width of a module without tensors; returns whether the module must have this one."""
    width = tuple(size) if isinstance(size, list) else size
    is_needed = isinstance(width, tuple) and getattr(module, name) != width
    setattr(module, name, width)
    return is_needed
