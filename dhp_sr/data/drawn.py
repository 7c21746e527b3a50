"""Drawn images: text, charts, full colors and hard edges, which photographs lack.

A network that is finetuned on photographs alone can fail on them, however well it scores on
photographs. Every image follows from its number, so nothing is stored or downloaded.
"""

import cv2
import numpy as np
from numpy.random import Generator

SIDE = 512
"""Height and width of the images, which leaves patches when they are reduced by 4."""

VERSION = 1
"""Part of what caches compare: to be raised when the same number gives another image."""

_TEXT = (
    "Image Restoration network 2x 3.14 scale budget width layer page 128 Set (a) Figure 7: "
    "quick brown fox jumps over lazy dog NOTES total = 99.5 % www.example.org A B C x y z "
    "left right open close File Edit View Help 12:45 {key} [0] <tag> && || != +/- $ # @"
)
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_PLAIN,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
)

Color = tuple[int, int, int]


def draw(number: int) -> np.ndarray:
    """Draw the image of a number: a background, then shapes, charts and lines of text.

    Returns:
        (512, 512, 3) in uint8.
    """
    rng = np.random.default_rng((VERSION, number))
    image = _background(rng)
    # Screens have hard edges, prints and reduced images smooth ones.
    line_type = cv2.LINE_AA if rng.random() < 0.6 else cv2.LINE_8
    for _ in range(int(rng.integers(4, 14))):
        _SHAPES[int(rng.integers(len(_SHAPES)))](image, rng, line_type)
    for _ in range(int(rng.integers(8, 22))):
        _draw_text(image, rng, line_type)
    return image


def _color(rng: Generator) -> Color:
    """Choose black or white, a full color, or any other."""
    kind = rng.random()
    if kind < 0.25:
        return (0, 0, 0) if rng.random() < 0.5 else (255, 255, 255)
    levels = rng.integers(0, 2, 3) * 255 if kind < 0.55 else rng.integers(0, 256, 3)
    return int(levels[0]), int(levels[1]), int(levels[2])


def _background(rng: Generator) -> np.ndarray:
    """Fill an image with one color or with a gradient between two."""
    first = np.array((255, 255, 255) if rng.random() < 0.4 else _color(rng), np.float32)
    second = first if rng.random() < 0.6 else np.array(_color(rng), np.float32)
    weight = np.linspace(0, 1, SIDE, dtype=np.float32)[:, None, None]
    image = np.broadcast_to(first * (1 - weight) + second * weight, (SIDE, SIDE, 3))
    if rng.random() < 0.5:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image.round().astype(np.uint8))


def _point(rng: Generator) -> tuple[int, int]:
    x, y = rng.integers(0, SIDE, 2)
    return int(x), int(y)


def _thickness(rng: Generator) -> int:
    """Choose the width of a line; half of all shapes are filled."""
    return cv2.FILLED if rng.random() < 0.5 else int(rng.integers(1, 7))


def _draw_rectangle(image: np.ndarray, rng: Generator, line_type: int) -> None:
    x, y = _point(rng)
    width, height = rng.integers(10, SIDE // 2, 2)
    corner = (x + int(width), y + int(height))
    cv2.rectangle(image, (x, y), corner, _color(rng), _thickness(rng), line_type)


def _draw_ellipse(image: np.ndarray, rng: Generator, line_type: int) -> None:
    width, height = rng.integers(5, SIDE // 4, 2)
    axes = (int(width), int(height))
    angle = float(rng.uniform(0, 180))
    thickness = _thickness(rng)
    cv2.ellipse(image, _point(rng), axes, angle, 0, 360, _color(rng), thickness, line_type)


def _draw_polygon(image: np.ndarray, rng: Generator, line_type: int) -> None:
    corners = rng.integers(-40, 140, (int(rng.integers(3, 7)), 2)) + np.array(_point(rng))
    cv2.fillPoly(image, [corners.astype(np.int32)], _color(rng), line_type)


def _draw_lines(image: np.ndarray, rng: Generator, line_type: int) -> None:
    """Draw lines side by side, from a hatching to the strings of a staff."""
    start, end = np.array(_point(rng)), np.array(_point(rng))
    step = rng.integers(-12, 13, 2)
    color, thickness = _color(rng), int(rng.integers(1, 4))
    for index in range(int(rng.integers(1, 16))):
        first, second = start + index * step, end + index * step
        ends = (int(first[0]), int(first[1])), (int(second[0]), int(second[1]))
        cv2.line(image, *ends, color, thickness, line_type)


def _draw_chart(image: np.ndarray, rng: Generator, line_type: int) -> None:
    """Draw a curve or bars over a grid."""
    x, y = (int(value) for value in rng.integers(0, SIDE - 120, 2))
    width, height = (int(value) for value in rng.integers(100, SIDE // 2, 2))
    cv2.rectangle(image, (x, y), (x + width, y + height), _color(rng), cv2.FILLED)
    grid = _color(rng)
    for level in range(y, y + height, int(rng.integers(8, 32))):
        cv2.line(image, (x, level), (x + width, level), grid, 1, line_type)
    color, step = _color(rng), int(rng.integers(6, 24))
    positions = np.arange(x, x + width, step)
    values = rng.integers(y, y + height, len(positions))
    if rng.random() < 0.5:
        curve = np.stack([positions, values], 1).astype(np.int32)
        cv2.polylines(image, [curve], False, color, int(rng.integers(1, 4)), line_type)
        return
    for position, value in zip(positions.tolist(), values.tolist(), strict=True):
        corner = (position + max(1, step // 2), y + height)
        cv2.rectangle(image, (position, value), corner, color, cv2.FILLED)


_SHAPES = (_draw_rectangle, _draw_ellipse, _draw_polygon, _draw_lines, _draw_chart)


def _draw_text(image: np.ndarray, rng: Generator, line_type: int) -> None:
    """Write one line, or some lines of the same hand."""
    font = _FONTS[int(rng.integers(len(_FONTS)))]
    size = float(rng.uniform(0.4, 1.2) if rng.random() < 0.7 else rng.uniform(1.2, 4))
    color, thickness = _color(rng), int(rng.integers(1, 2 + round(1.5 * size)))
    x, y = _point(rng)
    for line in range(int(rng.integers(1, 4))):
        start = int(rng.integers(len(_TEXT) - 40))
        text = _TEXT[start : start + int(rng.integers(1, 40))]
        origin = (x - 100, y + line * round(34 * size))
        cv2.putText(image, text, origin, font, size, color, thickness, line_type)
