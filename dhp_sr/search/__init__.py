"""The search methods. A new one is one file and one row of `METHODS`."""

from collections.abc import Callable, Mapping
from typing import Any

from dhp_sr.allocation.budget import Budget
from dhp_sr.hyper import HyperNet
from dhp_sr.search.base import Search, SearchSettings
from dhp_sr.search.dhp import ModernDHP
from dhp_sr.search.hsn.search import HSN
from dhp_sr.search.magnitude import Magnitude
from dhp_sr.search.paper import FaithfulDHP
from dhp_sr.search.prior_widths import OnLines
from dhp_sr.search.random import Random
from dhp_sr.search.uniform import Uniform
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.names import nearest


def _dhp(hyper: HyperNet, settings: SearchSettings) -> Search:
    return {"modern": ModernDHP, "faithful": FaithfulDHP}[settings.preset](hyper, settings)


METHODS: dict[str, Callable[[HyperNet, SearchSettings], Search]] = {
    "dhp": _dhp,
    "hsn": HSN,
    "uniform": Uniform,
    "random": Random,
    "magnitude": Magnitude,
    "lines": OnLines,
}
"""Name in the option file -> how to make the search."""


def build_search(
    method: str,
    hyper: HyperNet,
    budget: Budget,
    *,
    iterations: int,
    preset: str = "modern",
    seed: int = 0,
    latent_lr: float | None = None,
    penalty: float | None = None,
    price_power: float = 0.0,
    own: Mapping[str, Any] | None = None,
) -> Search:
    """Make a search by name, down to a budget.

    The further arguments are those of the option file's `compress`, `own` its section for the method.

    Raises:
        UserError: an unknown method or preset.
        BudgetError: a method that chooses its widths at once cannot meet the budget.
    """
    if method not in METHODS:
        raise UserError(
            f"compress.method must be one of {', '.join(METHODS)}; found {method!r}{nearest(method, METHODS)}"
        )
    if preset not in ("modern", "faithful"):
        raise UserError(f"compress.preset must be modern or faithful, found {preset!r}")
    settings = SearchSettings(
        budget, iterations, preset, seed, latent_lr, penalty, price_power, own or {}
    )
    return METHODS[method](hyper, settings)


__all__ = ["METHODS", "Search", "SearchSettings", "build_search"]
