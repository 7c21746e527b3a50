"""Does an exported file compute what the network computes? Asked at sizes that the export has not seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import round_up

TOLERANCES: Mapping[str, float] = {"fp32": 1e-4, "fp16": 1e-2}
"""Precision -> largest difference that an export may have, for values in 0-1."""

_SIDES = ((1, 33, 57), (3, 100, 17))
"""Batch, height and width of the inputs that are compared; sides are rounded up to their multiple."""


@dataclass(frozen=True)
class Agreement:
    """How far an exported file is from PyTorch."""

    differences: Mapping[tuple[int, ...], float]
    """Input shape -> largest difference, as a fraction of the output's largest value where that is above 1."""
    tolerance: float

    @property
    def largest(self) -> float:
        """The largest difference of all; NaN if one is."""
        return float(torch.tensor(list(self.differences.values())).max())


def allowed(half: bool, tolerance: float | None) -> float:
    """Return the largest difference that an export may have: the one given, or that of its precision."""
    return TOLERANCES["fp16" if half else "fp32"] if tolerance is None else tolerance


def unseen_shapes(seen: Sequence[int], size_multiple: int) -> list[tuple[int, ...]]:
    """Return two input shapes that differ from the one seen, whose batch is 2, in batch, height and width."""
    shapes, least = [], min(seen[2:])  # a smaller one may not pass through the network
    for batch, *sides in _SIDES:
        sides = [round_up(max(side, least), size_multiple) for side in sides]
        sides = [
            side + size_multiple * (side == old) for side, old in zip(sides, seen[2:], strict=True)
        ]
        shapes.append((batch, seen[1], *sides))
    return shapes


def compare(
    network: nn.Module,
    run: Callable[[Tensor], Tensor],
    shapes: Sequence[Sequence[int]],
    tolerance: float,
) -> Agreement:
    """Run an exported file and the network on the same noise.

    Args:
        network: the original, in eval mode; computes in float32 on the CPU.
        run: computes with the file: float32 (N, C, H, W) in [0, 1] to the output, of any floating-point type.
        shapes: of the inputs.
        tolerance: largest difference allowed.

    Raises:
        UserError: the file fails on a size, or its result has another shape or is further away than allowed.
    """
    differences = {tuple(shape): _difference(network, run, shape) for shape in shapes}
    found = Agreement(differences, tolerance)
    if not found.largest <= tolerance:
        listing = ", ".join(
            f"{value:g} at {size_text(shape)}" for shape, value in differences.items()
        )
        raise UserError(
            f"not written: expected PyTorch's output within {tolerance:g}, found a difference of {listing}"
        )
    return found


def size_text(shape: Sequence[int]) -> str:
    """Return a shape as text: 1x3x33x57."""
    return "x".join(str(side) for side in shape)


def image(shape: Sequence[int]) -> Tensor:
    """Return noise in [0, 1], the same at every call, without touching the global random state."""
    return torch.rand(tuple(shape), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _difference(network: nn.Module, run: Callable[[Tensor], Tensor], shape: Sequence[int]) -> float:
    given = image(shape)
    expected = network(given)
    try:
        found = run(given).float()
    except Exception as error:  # a runtime's own classes have no common base
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(
            f"not written: the file fails on an input of {size_text(shape)}: {reason[0]}"
        ) from error
    if found.shape != expected.shape:
        raise UserError(
            f"not written: expected an output of shape {tuple(expected.shape)} for an input of {size_text(shape)}, "
            f"found {tuple(found.shape)}"
        )
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
