"""Sizes rounded up to a multiple, and the padding that gets an image there."""

from typing import NamedTuple


class Padding(NamedTuple):
    """Rows and columns added below and to the right of an image."""

    bottom: int
    """Rows added, in pixels."""
    right: int
    """Columns added, in pixels."""
    mode: str
    """`reflect`, or `replicate` for an image that is too small to be mirrored."""


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `number`."""
    return -(-number // multiple) * multiple


def padding_to_multiple(height: int, width: int, multiple: int) -> Padding:
    """Return the padding after which both sides of an image are multiples of `multiple`.

    Scoring and inference share this rule, so that both feed a network the same pixels.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        multiple: That the network requires.
    """
    bottom = -height % multiple
    right = -width % multiple
    # Reflection leaves the edge pixel out, so it needs more pixels than it adds.
    mode = "reflect" if bottom < height and right < width else "replicate"
    return Padding(bottom, right, mode)
