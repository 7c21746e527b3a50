"""Latents over time as images: a row per channel, a column per sample, opacity for what remains."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dhp_sr.reports.run import Run
from dhp_sr.reports.run_files import LatentHistory

MAX_ROWS = 128
"""Rows of an image; of more channels, evenly spaced ones are shown."""
MAX_GROUPS = 120
"""Images of a run."""
COLOR = (47, 128, 194)
"""Red, green and blue; readable on white and on black."""
LEAST_OPACITY = 40
"""Opacity of the smallest latent above 0, of 255: a pruned channel can be told from a small one.

The page's heat_map.js computes latents from opacities with the same number.
"""


@dataclass(frozen=True)
class HeatMap:
    """Latents of a channel group over time."""

    group: str
    """Name of the group."""
    num_channels: int
    """Channels of the group."""
    num_kept: int
    """Channels with a latent above 0 at the end."""
    start: int
    """Iteration of the first sample."""
    end: int
    """Iteration of the last sample."""
    highest: float
    """Latent of full opacity."""
    data_uri: str
    """PNG file as an address."""


def heat_maps(run: Run) -> list[HeatMap]:
    """Draw the latents of a run's groups; none if no latent changed during the search."""
    groups = run.latents[:MAX_GROUPS]
    largest_change = 0.0
    highest = 0.0
    for group in groups:
        changes = np.ptp(group.values, axis=1)
        largest_change = max(largest_change, float(changes.max(initial=0)))
        highest = max(highest, float(group.values.max(initial=0)))
    if largest_change == 0:
        return []
    # All groups share a scale, so that their colors can be compared.
    return [draw_heat_map(group, highest or 1.0) for group in groups]


def png_uri(png: bytes) -> str:
    """Encode a PNG file as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def draw_heat_map(group: LatentHistory, highest: float) -> HeatMap:
    """Draw the latents of a group; `highest` is the latent of full opacity."""
    # Sorted by how long a channel is kept, then by its last latent; otherwise rows look random.
    num_samples_kept = (group.values > 0).sum(axis=1)
    order = np.lexsort((-group.values[:, -1], -num_samples_kept))
    values = group.values[order]
    num_channels = len(values)
    num_rows = min(num_channels, MAX_ROWS)
    rows = np.linspace(0, num_channels - 1, num_rows).round().astype(int)
    fractions = values[rows] / highest
    opacity = LEAST_OPACITY + (255 - LEAST_OPACITY) * fractions.clip(0, 1)
    opacity = np.where(fractions > 0, opacity, 0).round().astype(np.uint8)
    # Opacity rather than brightness, so that the image fits a light and a dark page.
    pixels = np.empty((*opacity.shape, 4), np.uint8)
    pixels[..., :3] = COLOR
    pixels[..., 3] = opacity
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return HeatMap(
        group=group.group,
        num_channels=num_channels,
        num_kept=int((values[:, -1] > 0).sum()),
        start=group.iterations[0],
        end=group.iterations[-1],
        highest=highest,
        data_uri=png_uri(file.getvalue()),
    )
