"""Networks made without memory for their weights, no larger than the file that they are made for.

The arguments of a constructor come from a file that is not trusted, or from a user who may be
mistaken: layers are counted while they are made.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dhp_sr.deploy.safetensors_io import ModelFileError

MAX_VALUES = 2**26
"""Limit of the entries of all constants that a constructor makes, and of an example input."""

_LAYER_COUNTS = ("num_block", "num_layer", "num_level", "num_group", "num_conv")
"""Prefixes of arguments that say how often something is repeated."""


class TooLargeError(ModelFileError):
    """More layers or constants than a file can belong to."""


def check_layer_counts(arguments: Mapping[str, object], num_tensors: int) -> None:
    """Check that no argument asks for more layers than the file holds, before any is made.

    Args:
        arguments: Arguments of the constructor, from a file.
        num_tensors: Number of tensors of the file.

    Raises:
        ModelFileError: An argument does.
    """
    # Each layer has a tensor at least, so more layers than tensors cannot fit.
    for name, value in arguments.items():
        if name.startswith(_LAYER_COUNTS) and isinstance(value, int) and value > num_tensors:
            raise ModelFileError(
                f"manifest: {name}={value} asks for more layers than the file's {num_tensors} "
                "tensors"
            )


def without_memory(make: Callable[[], nn.Module], num_tensors: int) -> nn.Module:
    """Construct a network with its weights on the meta device.

    Args:
        make: Constructs it.
        num_tensors: Number of tensors of the file that it is made for; about as many weights are
            allowed.

    Raises:
        TooLargeError: It has many more.
        Exception: Whatever `make` raises.
    """
    # Counters and masks that old files lack are the reason for the surplus.
    with _MetaWeights(num_tensors + num_tensors // 4 + 16):
        return make()


class _MetaWeights(TorchFunctionMode):
    """Puts the weights of layers made inside on the meta device; too many are an error.

    Layers allocate their weights by `torch.empty`. Constants are made by other functions and stay
    real, but their values are counted: arguments of a file decide about their sizes, too.
    """

    def __init__(self, max_tensors: int) -> None:
        super().__init__()
        self.tensors_left = max_tensors
        self.values_left = MAX_VALUES

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            self.tensors_left -= 1
            kwargs["device"] = "meta"
        # An initialization that copies a constant into a weight mixes the two devices.
        if any(isinstance(value, torch.Tensor) and value.is_meta for value in args):
            moved = []
            for value in args:
                moved.append(value.to("meta") if isinstance(value, torch.Tensor) else value)
            args = moved
        result = func(*args, **kwargs)
        # Views are counted again and again, which only makes the limit stricter.
        if isinstance(result, torch.Tensor) and not result.is_meta:
            self.values_left -= result.numel()
        if self.tensors_left < 0 or self.values_left < 0:
            raise TooLargeError("the arguments describe a larger network than the file holds")
        return result
