"""`infer.py` with a network that changes nothing gives back what the specifications say.

Inputs are built from the specifications, results are read by the tests' own PNG reader: all steps
between, from the header to the last row of the result, are under test.
"""

import dataclasses
import os
import struct

import numpy as np
import pytest
import torch
from documented_images import (
    all_cases,
    documented_kinds,
    documented_rows,
    draw,
    extra,
    turned_cases,
)
from spec_files import (
    BLACK_IS_ZERO,
    ICC,
    RGB,
    SAMPLE_FORMAT,
    SHORT,
    UNDEFINED,
    png,
    read_png,
    save,
    tiff,
)

from dhp_sr.archs import build
from dhp_sr.data.images import decode
from dhp_sr.deploy import save_model
from dhp_sr.images import ImageLimits, UnsupportedImageError, read_image
from dhp_sr.images.formats import OUTPUT_FORMATS
from dhp_sr.infer import main


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


def test_the_table_of_the_documentation_is_all_tested():
    assert set(all_cases()) == documented_kinds()
    assert len(documented_kinds()) > 90
    yes = {True: "yes", False: "no"}
    rows = []
    for name, output_format in OUTPUT_FORMATS.items():
        for depth, kept in output_format.kept.items():
            properties = [getattr(kept, field.name) for field in dataclasses.fields(kept)]
            rows.append([name, str(depth), *(yes[value] for value in properties)])
    assert documented_rows("What results keep") == rows


def named_cases():
    """Name of a file -> case."""
    rows = {}
    for number, (row, case) in enumerate(all_cases().items()):
        rows[f"{number}-{row[0]}{row[1]}"] = case
    return rows | turned_cases()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_file_comes_back(tmp_path, channels):
    cases = named_cases()
    source = tmp_path / "in"
    source.mkdir()
    for name, (data, _, _) in cases.items():
        save(source, f"{name}.png", data)  # the content counts, not the suffix
    assert infer(identity(tmp_path, channels), source, tmp_path / "out") == 0
    for name, (_, expected, tolerance) in cases.items():
        samples, depth, _, _ = read_png((tmp_path / "out" / f"{name}.png").read_bytes())
        assert depth == (8 if expected.max() <= 255 else 16), name
        assert samples.shape == expected.shape, name
        assert np.abs(samples.astype(int) - expected).max() <= tolerance, name


def test_training_sees_the_same_of_every_row():
    for row, (data, expected, tolerance) in all_cases().items():
        if expected.max() > 255:
            with pytest.raises(UnsupportedImageError, match="16 bits"):
                decode(data, "a.png")
            continue
        found = decode(data, "a.png")
        color = expected[:, :, : 1 if expected.shape[2] in (1, 2) else 3]
        assert np.abs(found.astype(int) - color).max() <= tolerance, row


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
