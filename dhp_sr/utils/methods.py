"""Facts of every search method, shared by options, engine and reports.

To add a method: a row here, and the file that it names. That file is named rather than imported,
so that option files are checked without torch; `dhp_sr.search` imports it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

MethodName = Literal["dhp", "hsn", "obs", "uniform", "random", "magnitude", "prior_widths"]
"""Values of `compress.method`."""


@dataclass(frozen=True)
class MethodSpec:
    """Class, requirements and defaults of a search method."""

    search: str
    """`module:name` of the class or function that makes the search."""
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
    removes_blocks: bool = False
    """Whether `compress.remove_blocks` has an effect."""


METHODS: dict[MethodName, MethodSpec] = {
    "dhp": MethodSpec("dhp_sr.search:dhp_of_preset", section="dhp", has_presets=True),
    "hsn": MethodSpec(
        "dhp_sr.search.hsn.search:HSN",
        section="hsn",
        parametrization="factored",
        freezes_weights=True,
        prune_residual=False,
    ),
    "obs": MethodSpec(
        "dhp_sr.search.obs.search:OBSSearch",
        section="obs",
        freezes_weights=True,
        removes_blocks=True,
    ),
    "uniform": MethodSpec("dhp_sr.search.baselines:Uniform", is_baseline=True),
    "random": MethodSpec("dhp_sr.search.baselines:Random", is_baseline=True),
    "magnitude": MethodSpec("dhp_sr.search.baselines:Magnitude", is_baseline=True),
    # The widths that dhp aims for, so they follow the same setting of its section.
    "prior_widths": MethodSpec(
        "dhp_sr.search.baselines:PriorWidths", is_baseline=True, section="dhp"
    ),
}

BASELINES = tuple(name for name, spec in METHODS.items() if spec.is_baseline)
"""Names of the methods that take no account of the loss."""

assert set(METHODS) == set(get_args(MethodName))
