"""Example inputs: what a network is called with while it is captured, counted and checked."""

from collections.abc import Sequence

from torch import Tensor

from dhp_sr.utils.errors import UserError

Example = Tensor | tuple[Tensor, ...]
"""The input of a network, (N, C, H, W) for images, or the tuple of all its inputs, the image first.

The further ones, such as a mask or a noise level, are fixed: wherever a network is tried on random
images, they are as in the example."""


def inputs_of(example: Example) -> tuple[Tensor, ...]:
    """Return the inputs of an example, the image first, to call a network with: `network(*inputs)`.

    Raises:
        UserError: the example is neither a tensor nor a tuple of tensors.
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
        image: the first input.
        further: the other inputs, fixed; numbers that are not whole get the image's precision.
    """
    inputs = [image]
    for tensor in further:
        dtype = image.dtype if tensor.is_floating_point() else tensor.dtype
        inputs.append(tensor.to(device=image.device, dtype=dtype))
    return tuple(inputs)
