"""How an image is cut into tiles, so that the memory is bounded and the result is that of the whole image."""

from collections.abc import Iterator
from dataclasses import dataclass

from dhp_sr.deploy.runner import Runner
from dhp_sr.utils.errors import UserError
from dhp_sr.utils.pixels import round_up

GIB = 2**30
_SMALLEST, _LARGEST = 32, 768
_WHOLE = 1024 * 1024
"""Input pixels up to which an image goes through in one piece if the memory allows it."""


@dataclass(frozen=True)
class Budget:
    """Bytes that may be used, by what they are used for."""

    total: int

    @property
    def network(self) -> int:
        """Values of the network; half of what is held, since allocators keep more than is used."""
        return self.total * 3 // 10

    @property
    def picture(self) -> int:
        """One decoded image."""
        return self.total // 4

    @property
    def waiting(self) -> int:
        """Decoded images in all."""
        return self.total // 4

    @property
    def band(self) -> int:
        """Rows of the result that are computed before they are handed on; four such bands can be held."""
        return self.total // 40


@dataclass(frozen=True)
class Tiling:
    """Sizes in input pixels."""

    rows: int
    columns: int
    overlap: int
    multiple: int
    """Tiles begin at multiples of it."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in input pixels."""

    first: int
    last: int
    """The part of the result that the tile gives, [first, last)."""
    start: int
    end: int
    """What the network is fed with, [start, end)."""


def spans(length: int, tile: int, tiling: Tiling) -> Iterator[Span]:
    """Cut an axis into tiles."""
    for first in range(0, length, tile):
        last = min(first + tile, length)
        start = max(0, first - tiling.overlap) // tiling.multiple * tiling.multiple
        end = min(length, round_up(last + tiling.overlap, tiling.multiple))
        yield Span(first, last, start, end)


@dataclass(frozen=True)
class Choice:
    """What the user asked for."""

    tile: int | None = None
    """Side in input pixels; 0: never cut; None: as the memory allows."""
    overlap: int | None = None
    """Pixels on each side of a tile; None: the receptive field."""


def choose(
    runner: Runner,
    height: int,
    width: int,
    *,
    batch: int,
    row_bytes: int,
    budget: Budget,
    choice: Choice,
) -> Tiling:
    """Return how to cut an image.

    Args:
        runner: The model.
        height: Of its input, a multiple of `runner.size_multiple`.
        width: Likewise.
        batch: Pictures that go through at once.
        row_bytes: Memory of the result's rows that one row of the input makes.
        budget: The memory.
        choice: Of the user.

    Raises:
        UserError: the image must be cut, but how far the tiles have to overlap is not known.
    """
    most = int(budget.network / (runner.tiles.bytes_per_pixel * batch))
    multiple = runner.tiles.multiple
    tall = max(_SMALLEST, budget.band // row_bytes)
    whole = Tiling(height, width, 0, multiple)
    if choice.tile == 0:
        return whole
    if choice.tile is None and height * width <= min(most, _WHOLE) and height <= tall:
        return whole
    if choice.tile is not None and max(height, width) <= choice.tile:
        return whole
    if choice.overlap is None and runner.tiles.halo is None:
        if choice.tile is None and height * width <= most:
            return whole
        raise UserError(
            f"{height} x {width} pixels must be cut into tiles, but how far they have to overlap is not known "
            f"({runner.tiles.reason}); give --overlap, or --tile 0 for no tiles, which takes more memory"
        )
    overlap = runner.tiles.halo if choice.overlap is None else choice.overlap
    side = _side(most, overlap) if choice.tile is None else choice.tile
    side = round_up(side, multiple)
    rows = side if choice.tile is not None else min(side, max(tall // multiple, 1) * multiple)
    return Tiling(min(rows, height), min(side, width), overlap, multiple)


def _side(most: int, overlap: int) -> int:
    """Return the side of square tiles of at most `most` pixels with their overlap; large overlaps want large tiles."""
    return max(_SMALLEST, min(int(most**0.5) - 2 * overlap, max(_LARGEST, 10 * overlap)))
