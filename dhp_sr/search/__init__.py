"""Search methods: they choose the channels to keep while a hyper network trains.

`base.Search` says what a method is. `gradual_taylor` is the default, `paper` the published search
of DHP, `hsn` the hyper-structure network, `obs` a search for trained weights by forward passes
alone, `baselines` what they are compared with. A new method is a file here and a row of
`dhp_sr.utils.methods.METHODS` that names it.
"""

from collections.abc import Callable
from pkgutil import resolve_name

from dhp_sr.allocation.diagnostics import check_prunable
from dhp_sr.hyper import HyperNet
from dhp_sr.search.base import DHPSettings, HSNSettings, Search, SearchSettings
from dhp_sr.search.gradual_taylor import GradualTaylorPruning
from dhp_sr.search.paper import PaperDHP
from dhp_sr.utils import methods
from dhp_sr.utils.errors import UserError, nearest


def dhp_of_preset(hyper: HyperNet, settings: SearchSettings) -> Search:
    """Make the search of method `dhp` that `settings.preset` names.

    Raises:
        UserError: Unknown preset.
    """
    if settings.preset == "default":
        return GradualTaylorPruning(hyper, settings)
    if settings.preset == "paper":
        return PaperDHP(hyper, settings)
    raise UserError(f"compress.preset: expected default or paper; found {settings.preset!r}")


METHODS: dict[str, Callable[[HyperNet, SearchSettings], Search]] = {
    name: resolve_name(spec.search) for name, spec in methods.METHODS.items()
}
"""Name in the option file -> class, or function, that makes the search."""


def build_search(method: str, hyper: HyperNet, settings: SearchSettings) -> Search:
    """Make a search by name.

    Args:
        method: Key of `METHODS`.
        hyper: The network to search in.
        settings: Budget, length, seed, and the options of the method.

    Raises:
        UserError: Unknown method or preset, or the network does not suit the method.
        BudgetError: The network has no channels to prune, or the budget cannot be met (baselines
            with fixed widths).
    """
    if method not in METHODS:
        raise UserError(
            f"compress.method: expected {', '.join(METHODS)}; "
            f"found {method!r}{nearest(method, METHODS)}"
        )
    # Also for a budget of 1, which masks nothing: methods are written for some scores, not none.
    check_prunable(hyper.plan)
    return METHODS[method](hyper, settings)


__all__ = ["METHODS", "DHPSettings", "HSNSettings", "Search", "SearchSettings", "build_search"]
