"""Outputs of networks: tensors, or nested tuples, lists and mappings of them."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Path = tuple[Any, ...]
"""Keys and indices that lead to a tensor of an output."""


def tensors_of(output: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yield the tensors and numbers of an output, and where they are in it.

    Args:
        output: a tensor or a number, or nested tuples, lists, mappings and dataclasses of them;
            what is something else is left out.
        path: where it is itself.
    """
    items: Any = ()
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, bool | int | float):
        yield path, torch.tensor(output)
    elif isinstance(output, Mapping):
        items = output.items()
    elif isinstance(output, tuple | list):
        items = enumerate(output)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        items = [(item.name, getattr(output, item.name)) for item in dataclasses.fields(output)]
    for key, value in items:
        yield from tensors_of(value, (*path, key))


def relative_difference(expected: Any, actual: Any) -> float:
    """Return the largest difference of two outputs, relative to the tensor's largest entry.

    Returns:
        Infinity where they do not have the same tensors of the same shapes, nan where an entry
        is nan.
    """
    expected_tensors, actual_tensors = dict(tensors_of(expected)), dict(tensors_of(actual))
    if expected_tensors.keys() != actual_tensors.keys():
        return math.inf
    differences = [0.0]
    for path, tensor in expected_tensors.items():
        if tensor.shape != actual_tensors[path].shape:
            return math.inf
        if tensor.numel():
            differences.append(_relative_difference(tensor, actual_tensors[path]))
    # max() passes over a nan unless it comes first.
    return max(differences, key=lambda difference: (difference != difference, difference))


def _relative_difference(expected: Tensor, actual: Tensor) -> float:
    # The classes that a segmentation names, or a mask: differences of such need a sign.
    if not (expected.is_floating_point() or expected.is_complex()):
        expected, actual = expected.double(), actual.double()
    largest = expected.abs().max().clamp_min(1e-12)
    return float((actual - expected).abs().max() / largest)
