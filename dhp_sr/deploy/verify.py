"""Verification of exported files: the same results as PyTorch, at sizes the export has not seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import round_up

TOLERANCES: Mapping[str, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
"""Precision -> largest absolute difference of an export, for values in [0, 1]."""

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

    @property
    def largest(self) -> float:
        """The largest difference; NaN if any difference is."""
        # Python's max() would drop a NaN, depending on the order.
        return float(torch.tensor(list(self.differences.values())).max())


def tolerance_of(half: bool, tolerance: float | None) -> float:
    """Return the given tolerance, or the default of the precision."""
    if tolerance is not None:
        return tolerance
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
) -> Agreement:
    """Compare an exported file with the network, on the same noise.

    Args:
        network: The original, in eval mode; computes in float32 on the CPU.
        run: Computes with the file: float32 (N, C, H, W) in [0, 1] to the output, of any
            floating-point type.
        shapes: Of the inputs.
        tolerance: Largest difference allowed.

    Raises:
        UserError: The file fails on a size, or its result has another shape or differs by more
            than the tolerance.
    """
    differences = {tuple(shape): _difference(network, run, shape) for shape in shapes}
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
def _difference(network: nn.Module, run: Callable[[Tensor], Tensor], shape: Sequence[int]) -> float:
    x = noise_image(shape)
    expected = network(x)
    try:
        output = run(x).float()
    except Exception as error:
        # Exceptions of runtimes have no common base class.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"not written: the file fails on an input of {shape_text(shape)}: {lines[0]}"
        ) from error
    if output.shape != expected.shape:
        raise UserError(
            f"not written: expected an output of shape {tuple(expected.shape)} for an input of "
            f"{shape_text(shape)}, got {tuple(output.shape)}"
        )
    return float((output - expected).abs().max() / expected.abs().max().clamp_min(1))


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as text: 1x3x33x57."""
    return "x".join(str(side) for side in shape)


def noise_image(shape: Sequence[int]) -> Tensor:
    """Return uniform noise in [0, 1], the same at every call."""
    # A separate generator leaves the global random state as it was.
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0))
