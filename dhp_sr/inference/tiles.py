"""Division of an image into tiles: bounded memory, and the result of the whole image.

Tiles overlap by the receptive field of the network, and begin at multiples of its alignment.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dhp_sr.deploy.runner import Runner
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import round_up

GIB = 2**30
_MIN_SIDE = 32
_MAX_SIDE = 768
_MAX_WHOLE_PIXELS = 1024 * 1024
"""Input pixels up to which an image goes through as a whole if the memory allows it."""


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes that may be used, by what they are used for."""

    total: int

    @property
    def network(self) -> int:
        """Activations of the network."""
        # twice as much is reserved in effect: allocators keep more than is in use
        return self.total * 3 // 10

    @property
    def image(self) -> int:
        """Decoding an image."""
        return self.total // 4

    @property
    def waiting(self) -> int:
        """All images that are decoded and not restored yet."""
        return self.total // 4

    @property
    def strip(self) -> int:
        """Rows of the result that are computed before they are written."""
        # four strips exist at once: two in the queue, the others being computed and encoded
        return self.total // 40


@dataclass(frozen=True)
class Tiling:
    """Sizes of tiles, in input pixels."""

    rows: int
    columns: int
    overlap: int
    """On each side."""
    alignment: int
    """Tiles begin at multiples of it."""
    batch: int = 1
    """Tiles of a row that go through the network at once, where they are of the same size."""


@dataclass(frozen=True)
class TileSpan:
    """Extent of a tile along an axis, in input pixels."""

    first: int
    last: int
    """The tile gives the result of [first, last)."""
    start: int
    end: int
    """The network is fed with [start, end)."""


def tile_spans(length: int, tile: int, tiling: Tiling) -> Iterator[TileSpan]:
    """Yield the tiles along an axis."""
    for first in range(0, length, tile):
        last = min(first + tile, length)
        start = max(0, first - tiling.overlap) // tiling.alignment * tiling.alignment
        end = min(length, round_up(last + tiling.overlap, tiling.alignment))
        yield TileSpan(first, last, start, end)


@dataclass(frozen=True)
class TilingOptions:
    """The user's settings."""

    tile: int | None = None
    """Side in input pixels; 0: no tiles; None: as the memory allows."""
    overlap: int | None = None
    """Pixels on each side of a tile; None: the receptive field."""


def choose_tiling(
    runner: Runner,
    height: int,
    width: int,
    *,
    batch: int,
    row_bytes: int,
    budget: MemoryBudget,
    options: TilingOptions,
) -> Tiling:
    """Decide whether and how an image is divided.

    Args:
        runner: The model.
        height: Height of its input, a multiple of `runner.size_multiple`.
        width: Width of its input, a multiple of `runner.size_multiple`.
        batch: Images that go through the network at once.
        row_bytes: Memory of the result's rows that a row of the input makes.
        budget: The memory.
        options: The user's settings.

    Raises:
        UserError: The image must be divided, but the overlap that tiles need is not known.
    """
    max_pixels = int(budget.network / (runner.tiles.bytes_per_pixel * batch))
    alignment = runner.tiles.multiple
    max_rows = max(_MIN_SIDE, budget.strip // row_bytes)
    whole = Tiling(height, width, 0, alignment)
    if options.tile == 0:
        return whole  # the user knows better, whatever the memory
    if options.tile is not None:
        if max(height, width) <= options.tile:
            return whole
    elif height * width <= min(max_pixels, _MAX_WHOLE_PIXELS) and height <= max_rows:
        return whole
    overlap = options.overlap
    if overlap is None:
        overlap = runner.tiles.halo
    if overlap is None:
        if options.tile is None and height * width <= max_pixels:
            return whole
        raise UserError(
            f"{height} x {width} pixels must be divided into tiles, but the overlap that these "
            f"need is not known ({runner.tiles.reason}); give --overlap, or --tile 0 for no tiles, "
            "which takes more memory"
        )
    if options.tile is not None:
        side = round_up(options.tile, alignment)
        fed_pixels = (min(side, height) + 2 * overlap) * (min(side, width) + 2 * overlap)
        tiles_at_once = max(1, min(runner.max_batch, max_pixels // fed_pixels))
        return Tiling(min(side, height), min(side, width), overlap, alignment, tiles_at_once)
    # The overlap is computed again by each neighbor: a wide one is worth larger tiles. A tile with
    # its overlap must fit into the memory.
    useful_side = max(_MAX_SIDE, 10 * overlap)
    side = max(_MIN_SIDE, min(int(max_pixels**0.5) - 2 * overlap, useful_side))
    side = round_up(side, alignment)
    # rows are limited by the strip of results as well, which grows with the width
    rows = min(side, max(max_rows // alignment, 1) * alignment)
    return Tiling(min(rows, height), min(side, width), overlap, alignment)
