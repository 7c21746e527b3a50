"""The search methods by name, and what each expects of the other settings in `compress`.

The engine is not imported here: option files are checked without torch. A test asserts that the
names equal those of `dhp_sr.search.METHODS`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

MethodName = Literal["dhp", "hsn", "obs", "uniform", "random", "magnitude", "prior_widths"]
"""Values of `compress.method`."""


@dataclass(frozen=True)
class MethodSpec:
    """Requirements and defaults of a method."""

    is_baseline: bool = False
    """Whether the method takes no account of the loss; a search has to beat these."""
    section: str | None = None
    """Section of `compress` that holds the settings of the method alone."""
    has_presets: bool = False
    """Whether `compress.preset` has an effect."""
    parametrization: str | None = None
    """The only value of `compress.parametrization` that the method works with; None: any."""
    freezes_weights: bool = False
    """Whether weights stay as they are during the search, so that they must be trained before."""
    prune_residual: bool = True
    """Default of `compress.prune_residual`."""


METHODS: dict[MethodName, MethodSpec] = {
    "dhp": MethodSpec(section="dhp", has_presets=True),
    "hsn": MethodSpec(
        section="hsn", parametrization="factored", freezes_weights=True, prune_residual=False
    ),
    "obs": MethodSpec(section="obs", freezes_weights=True),
    "uniform": MethodSpec(is_baseline=True),
    "random": MethodSpec(is_baseline=True),
    "magnitude": MethodSpec(is_baseline=True),
    # the widths that dhp aims for, so they follow the same setting of its section
    "prior_widths": MethodSpec(is_baseline=True, section="dhp"),
}

BASELINES = tuple(name for name, spec in METHODS.items() if spec.is_baseline)
"""Names of the methods that take no account of the loss."""

assert set(METHODS) == set(get_args(MethodName))
