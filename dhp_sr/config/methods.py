"""What each search method makes of the settings in `compress`: a method that is not like dhp has its row here."""

from dataclasses import dataclass

CONTROLS = ("uniform", "random", "magnitude", "lines")
"""Methods that do not listen to the loss; a search has to beat them."""

LATENT_SETTINGS = ("preset", "latent_lr", "penalty", "price_power")
"""Keys of `compress` for methods that move latents."""


@dataclass(frozen=True)
class MethodRules:
    """What differs between methods; the default is a method with latents, such as dhp."""

    moves_no_latents: str = ""
    """Why `LATENT_SETTINGS` have no effect; empty where they have."""
    follows_prices: bool = False
    """Whether `price_power` has one all the same."""
    parametrization: str = ""
    """The only one that it works with; empty: any."""
    wants_trained: str = ""
    """Why the network has to be trained before the search; empty where it need not be."""
    streams_stay: bool = False
    """Default of `compress.keep_streams`."""


RULES: dict[str, MethodRules] = {
    "hsn": MethodRules(
        moves_no_latents="takes its settings from compress.hsn",
        parametrization="factored",
        wants_trained="leaves the weights as they are while it searches",
        streams_stay=True,
    ),
    **dict.fromkeys(CONTROLS, MethodRules(moves_no_latents="has no latents to move")),
    "lines": MethodRules(moves_no_latents="has no latents to move", follows_prices=True),
}
"""Name of a method -> what it wants; one without a row wants nothing."""


def rules_of(method: str) -> MethodRules:
    """Return what a method makes of the settings."""
    return RULES.get(method, MethodRules())
