"""PNG, TIFF, BMP, PGM and PPM files built from their specifications with struct and zlib alone.

The tests of the decoder and of the results' formats compare with these, so that no library that
the package uses decides what is right. Pixels are given and returned as raw samples (H, W, S).

References:
    PNG: Portable Network Graphics (PNG) Specification, third edition, W3C.
    TIFF: TIFF revision 6.0, Adobe, 1992; supplement 1 (tag 317 horizontal differencing is in 6.0).
"""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Color type -> samples of one pixel."""
Chunk = tuple[bytes, bytes]


# ------------------------------------------------------------------------------ packing
def packed_rows(samples_HWS: np.ndarray, depth: int, byteorder: str = ">") -> list[bytes]:
    """Pack the samples of each row, the first one in the highest bits, rows padded to bytes."""
    rows = samples_HWS.reshape(len(samples_HWS), -1)
    if depth in (8, 16):
        return [row.astype(f"{byteorder}u{depth // 8}").tobytes() for row in rows]
    packed = []
    for row in rows:
        bits = "".join(format(int(value), f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        packed.append(int(bits, 2).to_bytes(len(bits) // 8, "big"))
    return packed


# ---------------------------------------------------------------------------------- PNG
def png_chunk(name: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
"""First row, first column, row step and column step of an interlaced image's passes (8.1)."""


def png(
    samples_HWS: np.ndarray,
    depth: int,
    color_type: int,
    before: Sequence[Chunk] = (),
    after: Sequence[Chunk] = (),
    interlaced: bool = False,
) -> bytes:
    """A PNG file; chunks `before` stand between IHDR and IDAT, `after` behind IDAT."""
    height, width = samples_HWS.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlaced)
    passes = [samples_HWS]
    if interlaced:
        passes = [samples_HWS[top::down, left::right] for top, left, down, right in ADAM7]
    rows = [row for part in passes if part.size for row in packed_rows(part, depth)]
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *before, (b"IDAT", content), *after, (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(png_chunk(name, content) for name, content in chunks)


def read_png(data: bytes) -> tuple[np.ndarray, int, int, dict[bytes, bytes]]:
    """Samples (H, W, S), depth, color type and chunks of a PNG of 8 or 16 bits."""
    assert data.startswith(PNG_SIGNATURE)
    chunks: dict[bytes, bytes] = {}
    position = 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        name = data[position + 4 : position + 8]
        content = data[position + 8 : position + 8 + length]
        (crc,) = struct.unpack_from(">I", data, position + 8 + length)
        assert crc == zlib.crc32(name + content)
        chunks[name] = chunks.get(name, b"") + content
        position += 12 + length
    width, height, depth, color_type, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    samples = PNG_SAMPLES[color_type]
    step = samples * depth // 8
    raw = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    rows = np.zeros((height + 1, width * step), np.uint8)
    for number, (kind, *values) in enumerate(raw, start=1):
        rows[number] = _unfiltered(int(kind), np.array(values, np.uint8), rows[number - 1], step)
    pixels = rows[1:] if depth == 8 else np.ascontiguousarray(rows[1:]).view(">u2")
    return (
        pixels.astype(f"u{depth // 8}").reshape(height, width, samples),
        depth,
        color_type,
        chunks,
    )


def _unfiltered(kind: int, row: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Undo the filters None, Sub and Up (9.2); the package writes no others."""
    assert kind in (0, 1, 2)
    if kind == 2:
        return row + above
    if kind == 1:
        return np.add.accumulate(row.reshape(-1, step), axis=0, dtype=np.uint8).reshape(-1)
    return row


# --------------------------------------------------------------------------------- TIFF
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, COUNTS, PLANAR = 273, 274, 277, 278, 279, 284
PREDICTOR, COLOR_MAP, EXTRA_SAMPLES, SAMPLE_FORMAT, ICC = 317, 320, 338, 339, 34675
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
SHORT, LONG, UNDEFINED = 3, 4, 7
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5


def packbits(data: bytes) -> bytes:
    """PackBits (section 9) with literal runs alone."""
    runs = [data[start : start + 128] for start in range(0, len(data), 128)]
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def lzw(data: bytes) -> bytes:
    """LZW (section 13), MSB first, a clear code after every 200 bytes so that codes keep 9 bits."""
    codes = [256]
    for number, value in enumerate(data, start=1):
        codes.append(value)
        if number % 200 == 0:
            codes.append(256)
    bits = "".join(format(code, "09b") for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


COMPRESSIONS = {1: bytes, 5: lzw, 8: zlib.compress, 32773: packbits}
"""Number of tag 259 -> encoder: none, LZW, Deflate, PackBits."""


def tiff(
    samples_HWS: np.ndarray,
    depth: int,
    photometric: int,
    *,
    byteorder: str = "<",
    compression: int = 1,
    planar: int = 1,
    rows_per_strip: int | None = None,
    tile: int | None = None,
    predictor: int = 1,
    tags: dict[int, tuple[int, Sequence[int] | bytes]] | None = None,
) -> bytes:
    """A TIFF file with one image.

    Args:
        samples_HWS: whole numbers; negative ones are stored in two's complement.
        depth: bits a sample, 1 to 16.
        photometric: tag 262.
        byteorder: `<` or `>`.
        compression: tag 259, one of `COMPRESSIONS`.
        planar: tag 284; 2 stores each sample's plane apart.
        rows_per_strip: tag 278; None: one strip.
        tile: side of tiles instead of strips.
        predictor: tag 317.
        tags: further or replaced tags, number -> (type, values).
    """
    height, width, count = samples_HWS.shape
    samples_HWS = samples_HWS.astype(np.int64) % (1 << depth)
    planes = [samples_HWS]
    if planar == 2:
        planes = [samples_HWS[:, :, [number]] for number in range(count)]
    segments = []
    for plane in planes:
        if tile is None:
            step = rows_per_strip or height
            segments += [plane[top : top + step] for top in range(0, height, step)]
        else:
            grid = [(top, left) for top in range(0, height, tile) for left in range(0, width, tile)]
            padding = ((0, -height % tile), (0, -width % tile), (0, 0))
            full = np.pad(plane, padding)
            segments += [full[top : top + tile, left : left + tile] for top, left in grid]
    encoded = []
    for segment in segments:
        values = segment.copy()
        if predictor == 2:
            values[:, 1:] -= segment[:, :-1]
            values %= 1 << depth
        encoded.append(COMPRESSIONS[compression](b"".join(packed_rows(values, depth, byteorder))))
    fields: dict[int, tuple[int, Sequence[int] | bytes]] = {
        WIDTH: (LONG, [width]),
        HEIGHT: (LONG, [height]),
        BITS: (SHORT, [depth] * count),
        COMPRESSION: (SHORT, [compression]),
        PHOTOMETRIC: (SHORT, [photometric]),
        SAMPLES: (SHORT, [count]),
        PLANAR: (SHORT, [planar]),
    }
    if predictor != 1:
        fields[PREDICTOR] = (SHORT, [predictor])
    offsets, lengths = OFFSETS, COUNTS
    if tile is None:
        fields[ROWS_PER_STRIP] = (LONG, [rows_per_strip or height])
    else:
        offsets, lengths = TILE_OFFSETS, TILE_COUNTS
        fields |= {TILE_WIDTH: (SHORT, [tile]), TILE_HEIGHT: (SHORT, [tile])}
    starts = np.cumsum([8, *(len(part) + len(part) % 2 for part in encoded)]).tolist()
    fields[offsets] = (LONG, starts[:-1])
    fields[lengths] = (LONG, [len(part) for part in encoded])
    body = b"".join(part + bytes(len(part) % 2) for part in encoded)
    return tiff_file(body, fields | (tags or {}), byteorder)


def tiff_file(
    body: bytes, fields: dict[int, tuple[int, Sequence[int] | bytes]], byteorder: str = "<"
) -> bytes:
    """Header, `body` from byte 8 on, a directory with `fields`, and the values of these."""
    directory = 8 + len(body) + len(body) % 2
    beyond = directory + 2 + 12 * len(fields) + 4
    entries, values = b"", b""
    for tag, (kind, content) in sorted(fields.items()):
        letter = {SHORT: "H", LONG: "I", UNDEFINED: "B"}[kind]
        data = struct.pack(f"{byteorder}{len(content)}{letter}", *content)
        entries += struct.pack(f"{byteorder}HHI", tag, kind, len(content))
        if len(data) <= 4:
            entries += data.ljust(4, b"\0")
        else:
            entries += struct.pack(f"{byteorder}I", beyond + len(values))
            values += data + bytes(len(data) % 2)
    head = (b"II" if byteorder == "<" else b"MM") + struct.pack(f"{byteorder}HI", 42, directory)
    count = struct.pack(f"{byteorder}H", len(fields))
    return head + body + bytes(len(body) % 2) + count + entries + bytes(4) + values


# -------------------------------------------------------------------- EXIF, BMP, Netpbm
def exif(orientation: int, byteorder: str = ">") -> bytes:
    """EXIF data (a TIFF directory) that hold the orientation alone."""
    return tiff_file(b"", {ORIENTATION: (SHORT, [orientation])}, byteorder)


def bmp(rgb_HWC: np.ndarray) -> bytes:
    """An uncompressed BMP of 24 bits, rows from bottom to top, padded to 4 bytes."""
    height, width = rgb_HWC.shape[:2]
    padding = bytes(-3 * width % 4)
    rows = b"".join(row[:, ::-1].tobytes() + padding for row in rgb_HWC[::-1])
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + info + rows


def bmp_file(
    stored_HWC: np.ndarray,
    bits: int,
    *,
    palette: np.ndarray | None = None,
    compression: int = 0,
    masks: bytes = b"",
    top_down: bool = False,
) -> bytes:
    """A BMP of the bytes of its pixels, or of indices for up to 8 bits.

    Args:
        stored_HWC: as in the file, blue before green.
        bits: a pixel.
        palette: (entries, 3), RGB.
        compression: 0, or 3 where there are masks.
        masks: of red, green, blue and alpha; they need the header of version 4.
        top_down: the first row is the upper one.
    """
    height, width = stored_HWC.shape[:2]
    lines = packed_rows(stored_HWC, min(bits, 8))
    lines = [line + bytes(-len(line) % 4) for line in (lines if top_down else lines[::-1])]
    entries = (
        b"" if palette is None else b"".join(bytes([*row[::-1], 0]) for row in palette.tolist())
    )
    header_bytes = 108 if masks else 40
    size = sum(map(len, lines))
    info = struct.pack(
        "<IiiHHIIiiII",
        header_bytes,
        width,
        -height if top_down else height,
        1,
        bits,
        compression,
        size,
        2835,
        2835,
        len(entries) // 4,
        0,
    )
    info = (info + masks).ljust(header_bytes, b"\0") + entries
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + size, 0, 0, start) + info + b"".join(lines)


def netpbm(samples_HWS: np.ndarray, maxval: int, binary: bool = True) -> bytes:
    """A PGM or PPM file, binary (P5, P6) or as text (P2, P3)."""
    height, width, count = samples_HWS.shape
    kind = {(1, False): 2, (3, False): 3, (1, True): 5, (3, True): 6}[count, binary]
    head = f"P{kind}\n# a comment\n{width} {height}\n{maxval}\n".encode()
    if binary:
        return head + samples_HWS.astype("u1" if maxval < 256 else ">u2").tobytes()
    return head + " ".join(map(str, samples_HWS.reshape(-1).tolist())).encode() + b"\n"


# --------------------------------------------------------------------------- orientation
def shown(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The image as viewers show it: the meaning of EXIF's and TIFF's tag 274, corner by corner.

    The specification says where row 0 and column 0 of the stored image are in the shown one.
    """
    rows, columns = np.mgrid[: stored.shape[0], : stored.shape[1]]
    down, right = stored.shape[0] - 1 - rows, stored.shape[1] - 1 - columns
    place = {
        1: (rows, columns),
        2: (rows, right),
        3: (down, right),
        4: (down, columns),
        5: (columns, rows),
        6: (columns, down),
        7: (right, down),
        8: (right, rows),
    }[orientation]
    shape = stored.shape[:2] if orientation <= 4 else stored.shape[1::-1]
    result = np.empty((*shape, *stored.shape[2:]), stored.dtype)
    result[place] = stored
    return result


def save(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path
