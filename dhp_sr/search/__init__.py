"""Search methods: they choose the channels to keep while a hyper network trains.

`base.Search` says what a method is. `gradual_taylor` is the default, `paper` the published search
of DHP, `hsn` the hyper-structure network, `baselines` what they are compared with. A new method is
a file here, a row of `METHODS` and a row of `dhp_sr.config.methods.METHODS`.
"""

from collections.abc import Callable

from dhp_sr.hyper import HyperNet
from dhp_sr.search.base import Search
from dhp_sr.search.baselines import Magnitude, PriorWidths, Random, Uniform
from dhp_sr.search.gradual_taylor import GradualTaylorPruning
from dhp_sr.search.hsn.search import HSN
from dhp_sr.search.paper import PaperDHP
from dhp_sr.search.settings import DHPSettings, HSNSettings, SearchSettings
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.names import nearest


def _build_dhp(hyper: HyperNet, settings: SearchSettings) -> Search:
    options = DHPSettings(**settings.method_options)
    if settings.preset == "default":
        return GradualTaylorPruning(hyper, settings, options.cost_exponent)
    if settings.preset == "paper":
        return PaperDHP(hyper, settings, penalty=options.penalty, lr=options.latent_lr)
    raise UserError(f"compress.preset must be default or paper, found {settings.preset!r}")


def _build_hsn(hyper: HyperNet, settings: SearchSettings) -> Search:
    return HSN(hyper, settings, HSNSettings(**settings.method_options))


def _build_prior_widths(hyper: HyperNet, settings: SearchSettings) -> Search:
    return PriorWidths(hyper, settings, DHPSettings(**settings.method_options).cost_exponent)


METHODS: dict[str, Callable[[HyperNet, SearchSettings], Search]] = {
    "dhp": _build_dhp,
    "hsn": _build_hsn,
    "uniform": Uniform,
    "random": Random,
    "magnitude": Magnitude,
    "prior_widths": _build_prior_widths,
}
"""Name in the option file -> function that makes the search."""


def build_search(method: str, hyper: HyperNet, settings: SearchSettings) -> Search:
    """Make a search by name.

    Args:
        method: Key of `METHODS`.
        hyper: The network to search in.
        settings: Budget, length, seed, and the method's own options.

    Raises:
        UserError: Unknown method or preset, or the network does not suit the method.
        BudgetError: The budget cannot be met (baselines with fixed widths).
    """
    if method not in METHODS:
        raise UserError(
            f"compress.method must be one of {', '.join(METHODS)}; "
            f"found {method!r}{nearest(method, METHODS)}"
        )
    return METHODS[method](hyper, settings)


__all__ = ["METHODS", "DHPSettings", "HSNSettings", "Search", "SearchSettings", "build_search"]
