"""Ways to quantize a network to int8: which layers, to how many bits, and over which ranges."""

from dataclasses import dataclass
from typing import Literal, get_args

FloatLayers = Literal["ends", "first", "none"]
"""Layers left in float32 whatever they cost, or in what the runtime computes instead of it, here
and below: the first and the last, the first alone, none."""


@dataclass(frozen=True)
class Recipe:
    """A way to quantize a network."""

    in_float: FloatLayers
    """The first and the last layer are the most sensitive, the first more so."""
    needs_vnni: bool = False
    """Weights of 8 bits rather than 7, which overflow on processors without VNNI."""
    layers_only: bool = False
    """Quantize what goes into convolutions and products alone: additions, gates and resized maps,
    which hold the residual features, stay in float32."""
    heavy_only: bool = False
    """Leave layers in float32 that use each value of their input less than `MIN_REUSE` times."""
    clips: bool = False
    """Let the range of an activation end where all but `OUTLIERS` of an image's values lie, in the
    median over the images, rather than at the extremes: a few values far out would coarsen the
    steps of all others."""

    def rounds_all_of(self, other: "Recipe") -> bool:
        """Whether it rounds all that another one does, to as many bits: it loses no less."""
        order = get_args(FloatLayers)
        return (
            self.needs_vnni == other.needs_vnni
            and order.index(self.in_float) >= order.index(other.in_float)
            and self.layers_only <= other.layers_only
            and self.heavy_only <= other.heavy_only
        )


OUTLIERS = 1e-4
"""Share of an activation's values that a range that clips leaves out."""

MIN_REUSE = 100
"""Products per value of a layer's input from which int8 pays: rounding the inputs of a convolution
of 1 x 1 to 48 channels takes as long as its products in int8 save. A convolution of 3 x 3 to 16
channels has 144."""

_AMOUNTS: tuple[dict[str, bool], ...] = (
    {"layers_only": True, "heavy_only": True},
    {"layers_only": True},
    {},
)
"""What recipes round besides the first and the last layer, the least first."""

RECIPES = (
    *(Recipe(ends, **amount) for ends in get_args(FloatLayers) for amount in _AMOUNTS),
    *(Recipe("ends", **amount, needs_vnni=True) for amount in _AMOUNTS),
)
