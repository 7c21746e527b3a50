"""The published search (`compress.preset: paper`) in a shorter time than its own."""

SHRINKING = 0.8
"""How far it shrinks |z| in all: enough for half of N(0, 1) to reach zero."""

RATE = 1e-3
"""Of the latents, ten times that of the paper's hundreds of epochs."""


def published(iterations: int) -> dict[str, float | str]:
    """Return the settings of a search of that length, name -> value.

    Args:
        iterations: of the search; the network is trained in it from its own start, not before.
    """
    return {
        "compress.preset": "paper",
        "compress.parametrization": "full",
        "compress.dense_iter": 0,
        "compress.search_iter": iterations,
        "compress.dhp.latent_lr": RATE,
        "compress.dhp.penalty": SHRINKING / iterations / RATE,
    }
