"""Files of every row of docs/reference/image_files.md, built from the formats' specifications."""

import io
import re
import struct
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from spec_files import (
    BLACK_IS_ZERO,
    CMYK,
    COLOR_MAP,
    COMPRESSIONS,
    EXTRA_SAMPLES,
    FILL_ORDER,
    ORIENTATION,
    PALETTE,
    RGB,
    SHORT,
    WHITE_IS_ZERO,
    bmp,
    bmp_file,
    exif,
    netpbm,
    packed_rows,
    png,
    shown,
    tiff,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "image_files.md"
SHAPE = (11, 9)
Row = tuple[str, int, str]
"""Format, bits a sample, what the file holds."""
Case = tuple[bytes, np.ndarray, int]
"""File, expected samples with alpha last, and the largest difference that is allowed."""


def documented_rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading of the page."""
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


def documented_kinds() -> set[Row]:
    """Rows of the table of what is read, one for each number of bits."""
    kinds = set()
    for name, bits, kind, _ in documented_rows("What is read"):
        kinds |= {(name, int(number), kind) for number in re.findall(r"\d+", bits)}
    return kinds


def draw(bits: int, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << bits, (*SHAPE, count))


def scaled(samples: np.ndarray, bits: int) -> np.ndarray:
    """Samples scaled to 8 or 16 bits."""
    peak = 255 if bits <= 8 else 65535
    return np.rint(samples / (2**bits - 1) * peak).astype(int)


def join(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([color, alpha.reshape(*SHAPE, 1)], axis=2)


def png_cases() -> dict[Row, Case]:
    cases: dict[Row, Case] = {}

    def add(bits, kind, data, expected):
        cases["PNG", bits, kind] = (data, expected, 0)

    for bits in (1, 2, 4, 8, 16):
        gray = draw(bits, 1)
        values = scaled(gray, bits)
        add(bits, "gray", png(gray, bits, 0), values)
        marked = int(gray[2, 3, 0])
        alpha = np.where(gray == marked, 0, 65535 if bits == 16 else 255)
        chunk = (b"tRNS", struct.pack(">H", marked))
        transparent = "gray with a transparent value (tRNS)"
        add(bits, transparent, png(gray, bits, 0, [chunk]), join(values, alpha))
        if bits in (1, 8, 16):
            add(bits, "interlaced", png(gray, bits, 0, interlaced=True), values)
        if bits <= 8:
            palette = draw(8, 3, seed=1).reshape(-1)[: 3 * min(2**bits, 32)].reshape(-1, 3)
            indices = gray % len(palette)
            entries = (b"PLTE", bytes(palette.reshape(-1).tolist()))
            colors = palette[indices[:, :, 0]]
            add(bits, "palette", png(indices, bits, 3, [entries]), colors)
            alphas = np.full(len(palette), 255)
            alphas[:1] = 99
            chunks = [entries, (b"tRNS", bytes([99]))]
            with_alpha = join(colors, alphas[indices])
            add(bits, "palette with alpha (tRNS)", png(indices, bits, 3, chunks), with_alpha)
    for bits in (8, 16):
        gray_alpha, rgb, rgba = (draw(bits, count) for count in (2, 3, 4))
        add(bits, "RGB", png(rgb, bits, 2), rgb)
        add(bits, "gray with alpha", png(gray_alpha, bits, 4), gray_alpha)
        add(bits, "RGB with alpha", png(rgba, bits, 6), rgba)
        chunk = (b"tRNS", struct.pack(">3H", *rgb[2, 3]))
        alpha = np.where((rgb == rgb[2, 3]).all(axis=2), 0, 2**bits - 1)
        with_alpha = join(rgb, alpha)
        add(bits, "RGB with a transparent color (tRNS)", png(rgb, bits, 2, [chunk]), with_alpha)
        turned = png(rgb, bits, 2, [(b"eXIf", exif(6))])
        add(bits, "orientation (eXIf)", turned, shown(rgb, 6))
    return cases


def extra(*kinds):
    return {EXTRA_SAMPLES: (SHORT, list(kinds))}


def reversed_bits(samples: np.ndarray, bits: int) -> bytes:
    """A TIFF whose bytes hold their bits in reverse order."""
    table = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
    data = tiff(samples, bits, BLACK_IS_ZERO, tags={FILL_ORDER: (SHORT, [2])})
    stored = len(b"".join(packed_rows(samples, bits, "<")))
    return data[:8] + data[8 : 8 + stored].translate(table) + data[8 + stored :]


def tiff_cases() -> dict[Row, Case]:
    cases: dict[Row, Case] = {}

    def add(bits, kind, data, expected):
        cases["TIFF", bits, kind] = (data, expected, 0)

    for bits in (1, 2, 4, 8, 10, 12, 16):
        gray, rgb = draw(bits, 1), draw(bits, 3)
        values = scaled(gray, bits)
        add(bits, "gray, black is zero", tiff(gray, bits, BLACK_IS_ZERO), values)
        peak = 255 if bits <= 8 else 65535
        if bits != 10:
            add(bits, "gray, white is zero", tiff(gray, bits, WHITE_IS_ZERO), peak - values)
        if bits in (4, 8, 12, 16):
            add(bits, "RGB", tiff(rgb, bits, RGB), scaled(rgb, bits))
        if bits in (1, 8, 16):
            reverse = "bits in reverse order (FillOrder 2)"
            add(bits, reverse, reversed_bits(gray, bits), values)
    for bits in (1, 4, 8):
        palette = draw(8, 3, seed=1).reshape(-1)[: 3 * min(2**bits, 32)].reshape(-1, 3)
        indices = draw(bits, 1) % len(palette)
        entries = np.zeros((3, 2**bits), int)
        entries[:, : len(palette)] = palette.T * 257
        tags = {COLOR_MAP: (SHORT, entries.reshape(-1).tolist())}
        data = tiff(indices, bits, PALETTE, tags=tags)
        add(bits, "palette", data, palette[indices[:, :, 0]])
    for bits in (8, 16):
        for kind, data, expected in _deep_tiffs(bits):
            add(bits, kind, data, expected)
    return cases


def _deep_tiffs(bits: int):
    peak = 2**bits - 1
    gray, rgb, rgba, five = (draw(bits, count) for count in (1, 3, 4, 5))
    yield "RGB in separate planes", tiff(rgb, bits, RGB, planar=2, rows_per_strip=4), rgb
    yield "RGB in tiles", tiff(rgb, bits, RGB, tile=16), rgb
    strips = tiff(rgb, bits, RGB, rows_per_strip=4, byteorder=">")
    yield "RGB in strips, the higher byte first", strips, rgb
    differences = tiff(rgb, bits, RGB, compression=5, predictor=2)
    yield "differences of neighbors (predictor 2)", differences, rgb
    gray_alpha = rgb[:, :, :2]
    yield "gray with alpha", tiff(gray_alpha, bits, BLACK_IS_ZERO, tags=extra(2)), gray_alpha
    yield "RGB with alpha", tiff(rgba, bits, RGB, tags=extra(2)), rgba
    alpha = np.maximum(rgba[:, :, 3:], 1)
    stored = np.rint(rgba[:, :, :3] * (alpha / peak)).astype(int)
    straight = np.floor(stored * peak / alpha + 0.5)
    premultiplied = np.concatenate([stored, alpha], axis=2)
    yield (
        "premultiplied alpha",
        tiff(premultiplied, bits, RGB, tags=extra(1)),
        np.concatenate([straight, alpha], axis=2),
    )
    yield "unspecified extra samples", tiff(rgba, bits, RGB, tags=extra(0)), rgba[:, :, :3]
    both = tiff(five, bits, RGB, tags=extra(0, 2))
    yield "unspecified extra samples and alpha", both, five[:, :, [0, 1, 2, 4]]
    inks = rgba / peak
    paper = np.rint((1 - inks[:, :, :3]) * (1 - inks[:, :, 3:]) * peak)
    yield "CMYK", tiff(rgba, bits, CMYK), paper
    tags = {ORIENTATION: (SHORT, [8])}
    yield "orientation", tiff(rgb, bits, RGB, tags=tags), shown(rgb, 8)
    inverted = tiff(gray, bits, WHITE_IS_ZERO, tags=tags)
    yield "orientation, white is zero", inverted, shown(peak - gray, 8)
    planes = tiff(rgb, bits, RGB, planar=2, tags=tags)
    yield "orientation, separate planes", planes, shown(rgb, 8)


def by_pillow(pixels: np.ndarray, name: str, mode: str | None = None, **options) -> bytes:
    image = PillowImage.fromarray(pixels.astype(np.uint8).squeeze())
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, name, **options)
    return stream.getvalue()


def lossy_cases() -> dict[Row, Case]:
    """JPEG, of an image that has a color alone on each side, and WebP."""
    flat = np.zeros((16, 32, 3), int)
    flat[:, :16] = (200, 30, 90)
    flat[:, 16:] = (10, 220, 40)
    inks = PillowImage.fromarray(np.full((16, 16, 4), (40, 90, 200, 30), np.uint8), "CMYK")
    stream = io.BytesIO()
    inks.save(stream, "JPEG", quality=100)
    paper = np.full((16, 16, 3), [round((1 - ink / 255) * 225) for ink in (40, 90, 200)])
    rgb, rgba = draw(8, 3), draw(8, 4)
    exact = {"lossless": True, "exact": True}
    turned = {"exif": b"Exif\0\0" + exif(5)}
    sharp = {"quality": 100, "subsampling": 0}
    return {
        ("JPEG", 8, "gray"): (by_pillow(flat[:, :, 0], "JPEG", quality=100), flat[:, :, :1], 2),
        ("JPEG", 8, "color"): (by_pillow(flat, "JPEG", **sharp), flat, 3),
        ("JPEG", 8, "CMYK"): (stream.getvalue(), paper, 3),
        ("JPEG", 8, "orientation (EXIF)"): (
            by_pillow(flat, "JPEG", **sharp, **turned),
            shown(flat, 5),
            3,
        ),
        ("WebP", 8, "RGB"): (by_pillow(rgb, "WEBP", **exact), rgb, 0),
        ("WebP", 8, "RGB with alpha"): (by_pillow(rgba, "WEBP", **exact), rgba, 0),
        ("WebP", 8, "orientation (EXIF)"): (
            by_pillow(rgb, "WEBP", **exact, **turned),
            shown(rgb, 5),
            0,
        ),
    }


def bmp_cases() -> dict[Row, Case]:
    rgb, rgba = draw(8, 3), draw(8, 4)
    bgra = rgba[:, :, [2, 1, 0, 3]]
    few = draw(5, 3)
    words = few[:, :, :1] << 10 | few[:, :, 1:2] << 5 | few[:, :, 2:]
    little_endian = np.concatenate([words & 255, words >> 8], axis=2)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    with_mask = bmp_file(bgra, 32, compression=3, masks=masks)
    cases = {
        ("BMP", 5, "16 bits a pixel"): (bmp_file(little_endian, 16), scaled(few, 5), 0),
        ("BMP", 8, "24 bits a pixel"): (bmp(rgb.astype(np.uint8)), rgb, 0),
        ("BMP", 8, "24 bits a pixel, rows from top to bottom"): (
            bmp_file(rgb[:, :, ::-1], 24, top_down=True),
            rgb,
            0,
        ),
        ("BMP", 8, "32 bits a pixel"): (bmp_file(bgra, 32), rgba[:, :, :3], 0),
        ("BMP", 8, "32 bits a pixel with a mask for alpha"): (with_mask, rgba, 0),
    }
    for bits in (1, 4, 8):
        palette = draw(8, 3, seed=1).reshape(-1)[: 3 * min(2**bits, 32)].reshape(-1, 3)
        indices = draw(bits, 1) % len(palette)
        data = bmp_file(indices, bits, palette=palette)
        cases["BMP", bits, "palette"] = (data, palette[indices[:, :, 0]], 0)
    return cases


def other_cases() -> dict[Row, Case]:
    cases: dict[Row, Case] = {}
    for bits, largest in ((8, 100), (16, 1000)):
        peak = 255 if bits == 8 else 65535
        for name, count in (("PGM", 1), ("PPM", 3)):
            values = draw(bits, count) % (largest + 1)
            expected = np.rint(values / largest * peak)
            for kind in ("binary", "text"):
                data = netpbm(values, largest, binary=kind == "binary")
                cases[name, bits, kind] = (data, expected, 0)
    palette, indices = draw(8, 3, seed=1)[0, :8], draw(3, 1)[:, :, 0]
    image = PillowImage.frombytes("P", SHAPE[::-1], indices.astype(np.uint8).tobytes())
    image.putpalette(palette.astype(np.uint8).tobytes())
    for kind, options in (
        ("palette", {}),
        ("palette with a transparent entry", {"transparency": 3}),
    ):
        stream = io.BytesIO()
        image.save(stream, "GIF", optimize=False, **options)
        expected = palette[indices]
        if options:
            expected = join(expected, np.where(indices == 3, 0, 255))
        cases["GIF", 8, kind] = (stream.getvalue(), expected, 0)
    return cases


def all_cases() -> dict[Row, Case]:
    """Every row of the table of what is read -> file and what it must give."""
    return png_cases() | tiff_cases() | lossy_cases() | bmp_cases() | other_cases()


def turned_cases() -> dict[str, Case]:
    """All orientations, at both depths, by PNG and by every compression of TIFF."""
    cases: dict[str, Case] = {}
    for orientation in range(2, 9):
        tags = {ORIENTATION: (SHORT, [orientation])}
        for bits in (8, 16):
            samples, gray = draw(bits, 3), draw(bits, 1)
            expected = shown(samples, orientation)
            chunk = (b"eXIf", exif(orientation))
            name = f"turned{orientation}-{bits}"
            cases[f"{name}-png"] = (png(samples, bits, 2, [chunk]), expected, 0)
            for compression in COMPRESSIONS:
                data = tiff(samples, bits, RGB, compression=compression, tags=tags)
                cases[f"{name}-tiff{compression}"] = (data, expected, 0)
            data = tiff(gray, bits, BLACK_IS_ZERO, tags=tags)
            cases[f"{name}-gray"] = (data, shown(gray, orientation), 0)
    return cases
