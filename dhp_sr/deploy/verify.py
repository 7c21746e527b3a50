"""Verification of exported files: the same results as PyTorch, at sizes the export has not seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import round_up

TOLERANCES: Mapping[str, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 0.3}
"""Precision -> largest absolute difference of an export, for values in [0, 1]. That of int8 only
shows that a file computes the network at all; its loss in dB is measured on images."""

# Odd sides, below and above those of a traced example, and another batch size.
_UNSEEN = ((1, 33, 57), (3, 100, 17))
"""Batch, height and width of the inputs that are compared."""


@dataclass(frozen=True)
class Agreement:
    """Differences between an exported file and PyTorch."""

    differences: Mapping[tuple[int, ...], float]
    """Input shape -> largest absolute difference, divided by the output's largest value where
    that is above 1."""
    tolerance: float
    """Largest difference allowed."""
    note: str = ""
    """Further facts for the user, such as the loss of int8."""

    @property
    def largest(self) -> float:
        """The largest difference; NaN if any difference is."""
        # Python's max() would drop a NaN, depending on the order.
        return float(torch.tensor(list(self.differences.values())).max())


def tolerance_of(half: bool, tolerance: float | None, *, int8: bool = False) -> float:
    """Return the given tolerance, or the default of the precision."""
    if tolerance is not None:
        return tolerance
    if int8:
        return TOLERANCES["int8"]
    return TOLERANCES["fp16" if half else "fp32"]


def unseen_shapes(example_shape: Sequence[int], size_multiple: int) -> list[tuple[int, ...]]:
    """Return two input shapes that differ from the traced shape in batch, height and width.

    Args:
        example_shape: (N, C, H, W) that the export was traced with, with a batch of 2.
        size_multiple: Sides are multiples of it.
    """
    # Smaller sides than the example's may not pass through the network.
    minimum = min(example_shape[2:])
    shapes = []
    for batch, *sides in _UNSEEN:
        fitting = []
        for side, traced in zip(sides, example_shape[2:], strict=True):
            rounded = round_up(max(side, minimum), size_multiple)
            fitting.append(rounded + size_multiple if rounded == traced else rounded)
        shapes.append((batch, example_shape[1], *fitting))
    return shapes


def compare(
    network: nn.Module,
    run: Callable[[Tensor], Tensor],
    shapes: Sequence[Sequence[int]],
    tolerance: float,
    make_input: Callable[[Sequence[int]], Tensor] | None = None,
) -> Agreement:
    """Compare an exported file with the network, on the same inputs.

    Args:
        network: The original, in eval mode; computes in float32 on the CPU.
        run: Computes with the file: float32 (N, C, H, W) in [0, 1] to the output, of any
            floating-point type.
        shapes: Shapes of the inputs.
        tolerance: Largest difference allowed.
        make_input: Makes an input of a shape; None: `noise_image`.

    Raises:
        UserError: The file fails on a size, or its result has another shape or differs by more
            than the tolerance.
    """
    make_input = make_input or noise_image
    differences = {}
    for shape in shapes:
        differences[tuple(shape)] = _difference(network, run, make_input(shape))
    agreement = Agreement(differences, tolerance)
    # "not <=" refuses NaN, too.
    if not agreement.largest <= tolerance:
        listing = ", ".join(
            f"{value:g} at {shape_text(shape)}" for shape, value in differences.items()
        )
        raise UserError(
            f"not written: expected PyTorch's output within {tolerance:g}, "
            f"got a difference of {listing}"
        )
    return agreement


@torch.no_grad()
def _difference(network: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    expected = network(x)
    try:
        output = run(x).float()
    except Exception as error:
        # Exceptions of runtimes have no common base class.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"not written: the file fails on an input of {shape_text(x.shape)}: {lines[0]}"
        ) from error
    if output.shape != expected.shape:
        raise UserError(
            f"not written: expected an output of shape {tuple(expected.shape)} for an input of "
            f"{shape_text(x.shape)}, got {tuple(output.shape)}"
        )
    return float((output - expected).abs().max() / expected.abs().max().clamp_min(1))


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as text: 1x3x33x57."""
    return "x".join(str(side) for side in shape)


def noise_image(shape: Sequence[int]) -> Tensor:
    """Return uniform noise in [0, 1], the same at every call."""
    # A separate generator leaves the global random state as it was.
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0))


def image_like(image: Tensor) -> Callable[[Sequence[int]], Tensor]:
    """Return a function that repeats and crops an image (1, C, H, W) to any shape.

    Quantized networks are compared on it: noise leaves the range that they were calibrated for.
    """

    def make(shape: Sequence[int]) -> Tensor:
        batch, _, height, width = shape
        repeats = (batch, 1, -(-height // image.shape[2]), -(-width // image.shape[3]))
        return image.repeat(repeats)[..., :height, :width].contiguous()

    return make
