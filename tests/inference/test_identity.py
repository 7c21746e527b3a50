"""`infer.py` with a network that changes nothing gives back what the specifications say.

Inputs are built from the specifications, results are read by the tests' own PNG reader: all steps
between, from the header to the last row of the result, are under test.
"""

import os
import struct

import numpy as np
import pytest
import torch
from spec_files import (
    BLACK_IS_ZERO,
    CMYK,
    COLOR_MAP,
    COMPRESSIONS,
    EXTRA_SAMPLES,
    ICC,
    ORIENTATION,
    PALETTE,
    RGB,
    SAMPLE_FORMAT,
    SHORT,
    UNDEFINED,
    WHITE_IS_ZERO,
    bmp,
    exif,
    netpbm,
    png,
    read_png,
    save,
    shown,
    tiff,
)

from dhp_sr.archs import build
from dhp_sr.deploy import save_model
from dhp_sr.images import ImageLimits, read_image
from dhp_sr.images.formats import OUTPUT_FORMATS
from dhp_sr.infer import main

SHAPE = (11, 9)


def identity(folder, channels):
    """DnCNN subtracts what its last layer gives: here nothing."""
    network = build("DnCNN", num_feat=4, num_layers=3, num_in_ch=channels)
    last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
    torch.nn.init.zeros_(last.weight)
    if last.bias is not None:
        torch.nn.init.zeros_(last.bias)
    path = folder / f"identity{channels}.safetensors"
    save_model(network.eval(), path)
    return path


def infer(model, source, output, *more):
    command = ["--model", model, "--input", source, "--output", output, "--device", "cpu"]
    return main([str(part) for part in (*command, "--quiet", "--threads", 1, *more)])


def draw(bits, count, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << bits, (*SHAPE, count))


def extra(*kinds):
    return {EXTRA_SAMPLES: (SHORT, list(kinds))}


def png_inputs():
    """Name -> file and expected samples, color and alpha together."""
    inputs = {}
    for depth in (8, 16):
        peak = 2**depth - 1
        for color_type, count in ((0, 1), (2, 3), (4, 2), (6, 4)):
            samples = draw(depth, count)
            inputs[f"png{depth}-{color_type}"] = (png(samples, depth, color_type), samples)
            if color_type in (0, 2):
                marked = samples[2, 3]
                chunk = (b"tRNS", struct.pack(f">{count}H", *marked))
                alpha = np.where((samples == marked).all(axis=2, keepdims=True), 0, peak)
                transparent = np.concatenate([samples, alpha], axis=2)
                inputs[f"png{depth}-{color_type}-trns"] = (
                    png(samples, depth, color_type, [chunk], interlaced=True),
                    transparent,
                )
    for depth in (1, 2, 4):
        samples = draw(depth, 1)
        inputs[f"png{depth}"] = (png(samples, depth, 0), samples * (255 // (2**depth - 1)))
    palette, indices = draw(8, 3, seed=1)[0, :8], draw(3, 1)
    chunks = [(b"PLTE", bytes(palette.reshape(-1).tolist())), (b"tRNS", bytes([0, 99]))]
    colors = palette[indices[:, :, 0]]
    alphas = np.array([0, 99] + [255] * 6)[indices]
    inputs["png-palette"] = (png(indices, 8, 3, chunks), np.concatenate([colors, alphas], axis=2))
    return inputs


def turned_inputs():
    inputs = {}
    for orientation in range(2, 9):
        for depth in (8, 16):
            samples = draw(depth, 3)
            expected = shown(samples, orientation)
            chunk = (b"eXIf", exif(orientation))
            inputs[f"turned{orientation}-png{depth}"] = (png(samples, depth, 2, [chunk]), expected)
            tags = {ORIENTATION: (SHORT, [orientation])}
            for compression in COMPRESSIONS:
                data = tiff(samples, depth, RGB, compression=compression, tags=tags)
                inputs[f"turned{orientation}-tiff{depth}-{compression}"] = (data, expected)
            gray = draw(depth, 1)
            data = tiff(gray, depth, BLACK_IS_ZERO, tags=tags)
            inputs[f"turned{orientation}-gray{depth}"] = (data, shown(gray, orientation))
    return inputs


def tiff_inputs():
    inputs = {}
    for depth in (8, 16):
        peak = 2**depth - 1
        gray, rgb, rgba, five = (draw(depth, count) for count in (1, 3, 4, 5))
        alpha = np.maximum(rgba[:, :, 3:], 1)
        stored = np.rint(rgba[:, :, :3] * (alpha / peak)).astype(int)
        straight = np.floor(stored * peak / alpha + 0.5)
        premultiplied = np.concatenate([stored, alpha], axis=2)
        inks = five / peak
        paper = np.rint((1 - inks[:, :, :3]) * (1 - inks[:, :, 3:4]) * peak)
        kinds = {
            "gray": (tiff(gray, depth, BLACK_IS_ZERO), gray),
            "white-is-zero": (tiff(gray, depth, WHITE_IS_ZERO), peak - gray),
            "planes": (tiff(rgb, depth, RGB, planar=2, rows_per_strip=4), rgb),
            "tiles": (tiff(rgb, depth, RGB, tile=16, byteorder=">"), rgb),
            "gray-alpha": (tiff(rgb[:, :, :2], depth, BLACK_IS_ZERO, tags=extra(2)), rgb[:, :, :2]),
            "alpha": (tiff(rgba, depth, RGB, tags=extra(2)), rgba),
            "premultiplied": (
                tiff(premultiplied, depth, RGB, tags=extra(1)),
                np.concatenate([straight, alpha], axis=2),
            ),
            "unspecified": (tiff(rgba, depth, RGB, tags=extra(0)), rgba[:, :, :3]),
            "unspecified-and-alpha": (
                tiff(five, depth, RGB, tags=extra(0, 2)),
                five[:, :, [0, 1, 2, 4]],
            ),
            "cmyk": (tiff(five[:, :, :4], depth, CMYK), paper),
        }
        inputs |= {f"tiff{depth}-{name}": kind for name, kind in kinds.items()}
    for depth in (1, 4, 12):
        samples = draw(depth, 1)
        largest = 255 if depth < 8 else 65535
        expected = np.rint(samples / (2**depth - 1) * largest)
        inputs[f"tiff{depth}"] = (tiff(samples, depth, BLACK_IS_ZERO), expected)
    palette, indices = draw(8, 3, seed=1)[:, :, 0].reshape(-1)[:48].reshape(16, 3), draw(4, 1)
    tags = {COLOR_MAP: (SHORT, (palette.T.reshape(-1) * 257).tolist())}
    inputs["tiff-palette"] = (tiff(indices, 4, PALETTE, tags=tags), palette[indices[:, :, 0]])
    return inputs


def other_inputs():
    rgb, gray, deep = draw(8, 3), draw(8, 1), draw(16, 3)
    return {
        "bmp": (bmp(rgb.astype(np.uint8)), rgb),
        "pgm": (netpbm(gray, 255), gray),
        "ppm16": (netpbm(deep, 65535), deep),
        "ppm-text": (netpbm(rgb % 101, 100, binary=False), np.rint(rgb % 101 / 100 * 255)),
    }


INPUTS = {"png": png_inputs, "turned": turned_inputs, "tiff": tiff_inputs, "other": other_inputs}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_file_comes_back(tmp_path, kind, channels):
    inputs = INPUTS[kind]()
    source = tmp_path / "in"
    source.mkdir()
    for name, (data, _) in inputs.items():
        save(source, f"{name}.png", data)  # the content counts, not the suffix
    assert infer(identity(tmp_path, channels), source, tmp_path / "out") == 0
    for name, (_, expected) in inputs.items():
        samples, depth, _, _ = read_png((tmp_path / "out" / f"{name}.png").read_bytes())
        is_deep = any(mark in name for mark in ("16", "tiff12"))
        assert depth == (16 if is_deep else 8), name
        np.testing.assert_array_equal(samples, expected, err_msg=name)


def test_other_kinds_are_refused_with_the_reason(tmp_path, capsys):
    signed = {SAMPLE_FORMAT: (SHORT, [2] * 3)}
    floating = {SAMPLE_FORMAT: (SHORT, [3] * 3)}
    refused = {
        "signed": tiff(draw(16, 3), 16, RGB, tags=signed),
        "floating-point": tiff(draw(16, 3), 16, RGB, tags=floating),
        "CIELAB": tiff(draw(8, 3), 8, 8),
    }
    source = tmp_path / "in"
    source.mkdir()
    for name, data in refused.items():
        save(source, f"{name}.tif", data)
    assert infer(identity(tmp_path, 3), source, tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    for name in refused:
        (line,) = [line for line in lines if f"{name}.tif" in line]
        assert name in line.partition(".tif")[2]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
def test_every_format_of_results(tmp_path, name):
    """Each format returns what the table says it keeps of an image."""
    profile = b"a profile" * 20
    tags = extra(2) | {ICC: (UNDEFINED, profile)}
    source = tmp_path / "in"
    source.mkdir()
    images = {}
    for depth in (8, 16):
        for count in (2, 4):
            samples = draw(depth, count)
            if not OUTPUT_FORMATS[name].kept[8].exact:
                samples[:, :, :-1] = 77 * (257 if depth == 16 else 1)
                samples[:, :, -1] |= 1
            kind = BLACK_IS_ZERO if count == 2 else RGB
            save(source, f"{depth}-{count}.tif", tiff(samples, depth, kind, tags=tags))
            images[f"{depth}-{count}"] = samples
    assert infer(identity(tmp_path, 1), source, tmp_path / "out", "--format", name) == 0
    for stem, samples in images.items():
        depth = int(stem.split("-")[0])
        kept = OUTPUT_FORMATS[name].kept.get(depth) or OUTPUT_FORMATS[name].kept[8]
        (path,) = (tmp_path / "out").glob(f"{stem}.*")
        image = read_image(path, ImageLimits(2**28))
        if depth == 16 and 16 not in OUTPUT_FORMATS[name].kept:
            samples = np.rint(samples / 257)
        colors = samples[:, :, :-1]
        tolerance = 0 if kept.exact else 2
        assert np.abs(image.color.astype(int) - colors).max() <= tolerance, stem
        assert (image.alpha is not None) == kept.alpha
        if kept.alpha:
            np.testing.assert_array_equal(image.alpha, samples[:, :, -1])
        has_profile = kept.gray_profile if stem.endswith("2") else kept.rgb_profile
        assert image.color_info.icc == (profile if has_profile else None)


def test_gamma_and_profile_of_a_png_stay(tmp_path):
    chunks = [(b"gAMA", struct.pack(">I", 100000)), (b"cHRM", struct.pack(">8I", *range(1, 9)))]
    samples = draw(16, 3)
    source = save(tmp_path, "a.png", png(samples, 16, 2, chunks))
    assert infer(identity(tmp_path, 3), source, tmp_path / "out") == 0
    found, _, _, written = read_png((tmp_path / "out" / "a.png").read_bytes())
    np.testing.assert_array_equal(found, samples)
    for name, content in chunks:
        assert written[name] == content


def test_losses_are_said(tmp_path, capsys):
    source = save(tmp_path, "a.tif", tiff(draw(8, 4), 8, RGB, tags=extra(0)))
    model = identity(tmp_path, 3)
    command = ["--model", model, "--input", source, "--output", tmp_path / "out"]
    assert main([str(part) for part in (*command, "--device", "cpu")]) == 0
    assert "extra samples" in capsys.readouterr().out


def test_noise_of_a_name_that_is_not_utf_8(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    name = os.fsdecode(b"gr\xfcn.png")
    save(source, name, png(draw(8, 1), 8, 0))
    assert infer(identity(tmp_path, 1), source, tmp_path / "out", "--sigma", "25") == 0
    assert (tmp_path / "out" / name).exists()
