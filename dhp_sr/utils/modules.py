"""State and mode of torch modules."""

import copy
import functools
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from dhp_sr.utils.errors import UserError

StateTree: TypeAlias = dict[str, Any]
"""What is saved to resume from: nested dicts, lists and tuples of tensors and plain values.

Whoever loads it has written it, and knows of which type the value of each key is."""


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode; every module gets its previous mode back at the end."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        # Not network.train(): submodules may have been in evaluation mode on purpose.
        for module, training in modes:
            module.training = training


def copy_network(network: nn.Module) -> nn.Module:
    """Return a deep copy of a network.

    Raises:
        UserError: It holds computed weights, as torch's old weight_norm and pruning make them.
    """
    try:
        return deep_copy(network)
    except Exception as error:  # whatever a module's own way of copying raises
        raise UserError(
            f"{type(network).__name__} cannot be copied: {str(error).partition('.')[0]}. Layers "
            "that hold computed weights must be made plain first (torch.nn.utils."
            "remove_weight_norm, torch.nn.utils.prune.remove)"
        ) from error


def deep_copy(network: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Do as `copy.deepcopy`, in a fraction of its time for a network of many modules.

    Tensors that a forward has left on a module, such as features, are copied without the history of
    their computation, which `copy.deepcopy` refuses.

    Args:
        network: The network.
        memo: As that of `copy.deepcopy`: id of an object -> what stands for its copy.
    """
    memo = {} if memo is None else memo
    for module in network.modules():
        # What hooks compute, such as the weight of weight_norm, is more than a left-over.
        if not module._forward_pre_hooks:
            _copy_without_history(list(vars(module).values()), memo)
    return _copied_module(network, memo)


def _copied_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]
    cls: Any = type(module)  # mypy takes no class of modules for hashable
    if not _is_copied_plainly(cls):
        return copy.deepcopy(module, memo)
    copied = cls.__new__(cls)
    memo[id(module)] = copied
    state: dict[str, object] = {}
    for name, value in vars(module).items():
        if name == "_compiled_call_impl":  # compiled code is that of the original
            continue
        if type(value) in _ATOMS:
            state[name] = value
        elif name == "_modules":
            children = type(value)()
            for key, child in value.items():
                children[key] = None if child is None else _copied_module(child, memo)
            state[name] = children
        elif type(value) in (dict, OrderedDict) and not value:  # hooks, above all
            state[name] = type(value)()
        else:
            state[name] = copy.deepcopy(value, memo)
    copied.__dict__.update(state)
    return copied


def _copy_without_history(value: object, memo: dict[int, Any]) -> None:
    """Put copies of computed tensors, also of those in containers, where deepcopy looks first."""
    if isinstance(value, Tensor):
        if not value.is_leaf and id(value) not in memo:
            memo[id(value)] = value.detach().clone()
    elif isinstance(value, list | tuple):
        for item in value:
            _copy_without_history(item, memo)
    elif type(value) is dict:
        _copy_without_history(list(value.values()), memo)


@functools.cache
def _is_copied_plainly(cls: type) -> bool:
    """Return whether a class has no way of its own to be copied, as a GraphModule has."""
    if hasattr(cls, "__deepcopy__"):
        return False
    for name in ("__getstate__", "__reduce__", "__reduce_ex__"):
        if getattr(cls, name, None) is not getattr(nn.Module, name, None):
            return False
    # Those of torch's layers supply what states of older versions lack.
    setter = next(base for base in cls.__mro__ if "__setstate__" in vars(base))
    return setter.__module__.startswith("torch.nn.modules.")


_ATOMS = (bool, int, float, str, type(None), type, torch.dtype, torch.device)


def load_values(network: nn.Module, values: Mapping[str, Tensor], **options: bool) -> None:
    """Load a state dict that was stored without the version numbers of its modules.

    Some modules, such as torchvision's MNASNet, refuse a state dict without a version or take it
    for older than it is; here the versions are those of the network's current modules.

    Args:
        network: Network that is changed.
        values: Tensors by key.
        options: Arguments of `torch.nn.Module.load_state_dict`.
    """
    state = OrderedDict(values)
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    network.load_state_dict(state, **options)


def floating_dtype(network: nn.Module) -> torch.dtype:
    """Return the type of the first floating-point parameter, or float32."""
    for parameter in network.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.float32


def canonical_names(network: nn.Module) -> dict[str, str]:
    """Map every name of a parameter or buffer to the first name of the same tensor."""
    # By identity: two names of the same tensor are a shared parameter, equal values are not.
    first_name: dict[int, str] = {}
    named = [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]
    names = {}
    for name, tensor in named:
        names[name] = first_name.setdefault(id(tensor), name)
    return names


def parameter_names_by_path(network: nn.Module) -> dict[str, str]:
    """Map every parameter of every module to the first name of the same tensor.

    Shared modules count once, but parameters that two modules share have a name in each.
    """
    first_name = canonical_names(network)
    names = {}
    for path, module in network.named_modules():
        for leaf, _ in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{path}.{leaf}".lstrip(".")  # the root module has an empty path
            names[name] = first_name[name]
    return names


def stack_samples(samples: Sequence[Tensor], batch_size: int = 8) -> list[Tensor]:
    """Stack neighboring samples of equal shape into batches.

    Args:
        samples: Without a batch axis, (C, H, W) for images.
        batch_size: Samples in a batch, at most.
    """
    batches: list[list[Tensor]] = []
    for sample in samples:
        fits = batches and len(batches[-1]) < batch_size
        if fits and batches[-1][0].shape == sample.shape:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return [torch.stack(batch) for batch in batches]


def out_dim(layer: nn.Module) -> int:
    """Return the axis of a layer's weight that holds the output channels."""
    return 1 if isinstance(layer, _ConvTransposeNd) else 0


def call_input(args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> Tensor:
    """Return the input of a call of a layer, which may be given by its name: `layer(input=x)`.

    Args:
        args: Positional arguments of the call, as hooks get them.
        kwargs: Its keyword arguments.
    """
    return args[0] if args else kwargs["input"]


def replace_call_input(
    args: Sequence[Tensor], kwargs: Mapping[str, Tensor], value: Tensor
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return the arguments of a call of a layer with another input, the further ones as they are.

    A transposed convolution may be called with the size of its output, for one.
    """
    if args:
        return (value, *args[1:]), dict(kwargs)
    return (), {**kwargs, "input": value}
