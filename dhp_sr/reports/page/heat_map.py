"""Latents over time as small pictures: a row for each channel, a column for each sample, opacity for what is left."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhp_sr.reports.latents import Latents
from dhp_sr.reports.run import Run

MOST_ROWS = 128
"""Channels of one picture; of more, evenly spaced ones are shown."""
MOST_GROUPS = 120
COLOUR = (47, 128, 194)
"""Readable on white and on black."""
FAINTEST = 40
"""Opacity of the smallest latent that is not 0, of 255: what has died is told from what is small."""


@dataclass(frozen=True)
class Heat:
    """One group."""

    name: str
    """Of the group."""
    channels: int
    """All of them."""
    left: int
    """Channels not 0 at the end."""
    start: int
    """Iteration of the first sample."""
    end: int
    """Iteration of the last sample."""
    highest: float
    """The latent of full opacity."""
    data_uri: str
    """PNG."""


def heat_maps(run: Run) -> list[Heat]:
    """Return the pictures of a run's groups; none where nothing changed during the search, or nothing was kept."""
    groups = run.latents[:MOST_GROUPS]
    if all(np.ptp(group.values, axis=1).max(initial=0) == 0 for group in groups):
        return []
    highest = max(float(group.values.max(initial=0)) for group in groups) or 1.0
    return [_heat(group, highest) for group in groups]


def _heat(group: Latents, highest: float) -> Heat:
    order = np.lexsort((-group.values[:, -1], -(group.values > 0).sum(axis=1)))
    values = group.values[order]
    rows = values[np.linspace(0, len(values) - 1, min(len(values), MOST_ROWS)).round().astype(int)]
    return Heat(
        name=group.group,
        channels=len(values),
        left=int((values[:, -1] > 0).sum()),
        start=group.iterations[0],
        end=group.iterations[-1],
        highest=highest,
        data_uri=png_uri(_png(rows / highest)),
    )


def _png(shares: NDArray[np.float64]) -> bytes:
    opacity = (
        np.where(shares > 0, FAINTEST + (255 - FAINTEST) * shares.clip(0, 1), 0)
        .round()
        .astype(np.uint8)
    )
    pixels = np.empty((*opacity.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = COLOUR, opacity
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def png_uri(png: bytes) -> str:
    """Return a PNG file as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
