"""Inputs and outputs of networks: examples to call them with, and tensors in what they return."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dhp_sr.utils.errors import UserError

Example = Tensor | tuple[Tensor, ...]
"""The input of a network, (N, C, H, W) for images, or the tuple of all its inputs, the image first.

The further ones, such as a mask or a noise level, are fixed: wherever a network is tried on random
images, they are as in the example."""


def inputs_of(example: Example) -> tuple[Tensor, ...]:
    """Return the inputs of an example, the image first, to call a network with: `network(*inputs)`.

    Raises:
        UserError: The example is neither a tensor nor a tuple of tensors.
    """
    if isinstance(example, Tensor):
        return (example,)
    is_sequence = isinstance(example, (tuple, list))
    if not is_sequence or not example or not all(isinstance(item, Tensor) for item in example):
        kind = type(example).__name__
        if is_sequence:
            kind += f" of {', '.join(type(item).__name__ for item in example) or 'nothing'}"
        raise UserError(
            f"example input: expected a tensor, or a tuple of tensors in the order of the "
            f"network's inputs, found a {kind}"
        )
    return tuple(example)


def first_samples(example: Example) -> tuple[Tensor, ...]:
    """Return the inputs of an example for its first sample alone, as a batch of one.

    Further inputs without an axis for the batch, such as a noise level for all images, stay.
    """
    inputs = inputs_of(example)
    image = inputs[0]
    samples = [image[:1]]
    for tensor in inputs[1:]:
        has_batch = tensor.dim() > 0 and image.dim() > 0 and len(tensor) == len(image)
        samples.append(tensor[:1] if has_batch else tensor)
    return tuple(samples)


def with_further_inputs(image: Tensor, further: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the inputs of a call for another image, the further ones on its device.

    Args:
        image: The first input.
        further: The other inputs, fixed; numbers that are not whole get the image's precision.
    """
    inputs = [image]
    for tensor in further:
        dtype = image.dtype if tensor.is_floating_point() else tensor.dtype
        inputs.append(tensor.to(device=image.device, dtype=dtype))
    return tuple(inputs)


Path = tuple[object, ...]
"""Keys and indices that lead to a tensor of an output."""


def tensors_of(output: object, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yield the tensors and numbers of an output, and where they are in it.

    Args:
        output: A tensor or a number, or nested tuples, lists, mappings and dataclasses of them;
            what is something else is left out.
        path: Where it is itself.
    """
    items: Iterable[tuple[object, object]] = ()
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


def relative_difference(expected: object, actual: object) -> float:
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
