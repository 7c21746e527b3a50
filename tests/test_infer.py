"""The command line of restoring images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dhp_sr.archs import build
from dhp_sr.data.bicubic import downscale
from dhp_sr.data.images import decode
from dhp_sr.deploy import save_model
from dhp_sr.infer import main
from dhp_sr.inference import encode, pipeline
from dhp_sr.metrics import psnr_db
from dhp_sr.test import main as score_main

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back afterwards


@pytest.fixture
def edsr(tmp_path):
    torch.manual_seed(0)
    save_model(build("EDSR", num_feat=4, num_block=1, upscale=2), tmp_path / "edsr.safetensors")
    return tmp_path / "edsr.safetensors"


@pytest.fixture
def dncnn(tmp_path):
    torch.manual_seed(0)
    save_model(build("DnCNN", num_feat=4, num_layers=3), tmp_path / "dncnn.safetensors")
    return tmp_path / "dncnn.safetensors"


def noise(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def images(folder, count=3, side=12):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(noise(side, side + index, 3, seed=index)).save(folder / f"{index}.png")
    return folder


def infer(model, source, output, *more):
    return main(
        [
            "--model",
            str(model),
            "--input",
            str(source),
            "--output",
            str(output),
            "--device",
            "cpu",
            *more,
        ]
    )


def pixels(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_a_folder(edsr, tmp_path, capsys):
    source, out = images(tmp_path / "in"), tmp_path / "out"
    assert infer(edsr, source, out) == 0
    assert [pixels(out / f"{index}.png").shape for index in range(3)] == [
        (24, 24, 3),
        (24, 26, 3),
        (24, 28, 3),
    ]
    output = capsys.readouterr().out
    assert output.startswith("3 images, 0.00 megapixels in") and "MP/s" in output
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert infer(edsr, images(source, 4), out) == 0
    assert capsys.readouterr().out.startswith("1 images") and (out / "3.png").exists()
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert infer(edsr, source, out, "--overwrite") == 0
    assert all(path.stat().st_mtime_ns != time for path, time in before.items())


def test_results_beside_their_images_are_continued(edsr, tmp_path, capsys):
    source = images(tmp_path / "in")
    assert infer(edsr, source, source, "--suffix", "_x2") == 0
    (source / "1_x2.png").unlink()
    capsys.readouterr()
    assert infer(edsr, source, source, "--suffix", "_x2") == 0
    output = capsys.readouterr().out
    assert output.startswith("1 images") and "2 done before" in output
    assert "0_x2.png, 2_x2.png: named like results" in output
    assert len(list(source.iterdir())) == 6


def broken(folder):
    """Twenty files that cannot be restored -> a word of the reason."""
    whole = (folder / "good000.png").read_bytes()
    jpeg, text = folder / "seed.jpg", "just a text, no image"
    Image.fromarray(noise(64, 64, 3)).save(jpeg)
    photograph = jpeg.read_bytes()
    jpeg.unlink()
    contents = {f"cut{n}.png": (whole[: len(whole) * n // 5], "damaged") for n in (2, 3, 4)}
    contents |= {
        f"cut{n}.jpg": (photograph[: len(photograph) * n // 5], "damaged") for n in (1, 2, 3, 4)
    }
    contents |= {f"empty{n}.png": (b"", "empty") for n in (1, 2)} | {"empty.jpg": (b"", "empty")}
    contents |= {
        f"text.{kind}": (text.encode(), "not an image")
        for kind in ("png", "jpg", "tiff", "webp", "bmp")
    }
    contents["head.png"] = (whole[:16], "damaged")
    reasons = {}
    for name, (content, reason) in contents.items():
        (folder / name).write_bytes(content)
        reasons[name] = reason
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    frames = [Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "pages.tiff", save_all=True, append_images=frames[1:])
    return {
        **reasons,
        "folder.png": "a folder",
        "link.png": "link",
        "moving.gif": "3 frames",
        "pages.tiff": "3 pages",
    }


def good(folder):
    """A hundred and eighty images of all kinds."""
    folder.mkdir()
    for index in range(170):
        kind = ("png", "jpg", "bmp", "tiff", "webp")[index % 5]
        (folder / f"sub{index % 3}").mkdir(exist_ok=True)
        where = (
            folder / f"sub{index % 3}" / f"{index:03}.{kind}"
            if index % 2
            else folder / f"good{index:03}.{kind}"
        )
        source = noise(9 + index % 7, 8 + index % 11, 3, seed=index)
        Image.fromarray(source if index % 4 else source[:, :, 0]).save(where)
    Image.fromarray(noise(1, 1, 3)).save(folder / "one.png")
    cv2.imwrite(str(folder / "deep.png"), noise(9, 9, 3, dtype=np.uint16))
    cv2.imwrite(str(folder / "deep.tiff"), noise(9, 9, dtype=np.uint16))
    Image.fromarray(noise(9, 9, 4)).save(folder / "alpha.png")
    Image.fromarray(noise(9, 9, 3)).convert("LA").save(folder / "grey_alpha.png")
    Image.fromarray(noise(9, 9, 3)).convert("P").save(folder / "palette.png")
    Image.fromarray(noise(9, 9, 3)).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise(9, 9, 3)).save(folder / "still.gif")
    Image.fromarray(noise(9, 9, 3)).save(folder / "wrong.jpg", "PNG")
    Image.fromarray(noise(9, 9, 3)).save(folder / "LOUD.PNG")
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_two_hundred_mixed_files(edsr, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    fine, bad = good(source), broken(source)
    assert (len(fine), len(bad)) == (180, 20)
    assert infer(edsr, source, out) == 1
    output, complaints = capsys.readouterr()
    assert output.startswith("180 images") and "20 failed" in output
    lines = complaints.splitlines()
    assert len(lines) == 20 and all(line.startswith("failed: ") for line in lines)
    for name, reason in bad.items():
        (line,) = [line for line in lines if line.startswith(f"failed: {source / name}: ")]
        assert reason in line, line
    results = [path for path in out.rglob("*") if path.is_file()]
    assert len(results) == 180 and all(path.suffix.lower() == ".png" for path in results)
    for name in ("one", "deep", "alpha", "grey_alpha", "palette", "cmyk", "still", "wrong"):
        (found,) = [path for path in results if path.stem in (name, f"{name}_png")]
        assert pixels(found).shape[0] == (2 if name == "one" else 18)
    assert pixels(out / "deep_png.png").dtype == pixels(out / "deep_tiff.png").dtype == np.uint16
    assert pixels(out / "alpha.png").shape[2] == 4
    assert infer(edsr, source, out) == 1  # what failed fails again, the rest is there
    assert "0 images" in capsys.readouterr().out


@pytest.mark.parametrize("sigma", [None, 25])
def test_scores_are_those_of_test_py(edsr, dncnn, tmp_path, sigma):
    truth, small, out = tmp_path / "Set" / "HR", tmp_path / "LR", tmp_path / "out"
    photograph = decode((ROOT / "docs" / "images" / "quickstart.png").read_bytes(), "")[:120, :160]
    truth.mkdir(parents=True)
    small.mkdir()
    source = photograph if sigma is None else photograph[:, :, :1]
    Image.fromarray(source.squeeze()).save(truth / "a.png")
    Image.fromarray((downscale(source, 2) if sigma is None else source).squeeze()).save(
        small / "a.png"
    )
    model, more = (edsr, []) if sigma is None else (dncnn, ["--sigma", str(sigma)])
    scores = [
        "--model",
        str(model),
        "--data",
        str(truth),
        "--json",
        str(tmp_path / "s.json"),
        "--device",
        "cpu",
    ]
    assert score_main([*scores, "--repeats", "0", *more]) == 0
    assert infer(model, small, out, "--tile", "48", *more) == 0
    found = pixels(out / "a.png")
    found = found[:, :, None] if sigma else found[:, :, ::-1]
    expected = json.loads((tmp_path / "s.json").read_text())["rows"][1]["sets"]["Set"]
    assert psnr_db(found, source, crop_border=0 if sigma else 2) == pytest.approx(
        expected["psnr_rgb_db"], abs=1e-3
    )


def test_tiles_give_the_same_file(edsr, tmp_path):
    source = images(tmp_path / "in", 1, side=150)
    assert infer(edsr, source, tmp_path / "whole", "--tile", "0") == 0
    assert infer(edsr, source, tmp_path / "tiled", "--tile", "40") == 0
    assert np.array_equal(
        pixels(tmp_path / "whole" / "0.png"), pixels(tmp_path / "tiled" / "0.png")
    )


def test_less_overlap_says_what_it_costs(edsr, tmp_path, capsys):
    assert (
        infer(edsr, images(tmp_path / "in"), tmp_path / "out", "--tile", "32", "--overlap", "2")
        == 0
    )
    assert "--overlap 2: less than the 6 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "0.1"], "--memory"),
        (["--quality", "101"], "--quality"),
        (["--tile", "-1"], "--tile"),
        (["--sigma", "25"], "--sigma"),
        (["--precision", "fp16"], "fp16"),
    ],
)
def test_mistakes(edsr, tmp_path, capsys, arguments, message):
    assert infer(edsr, images(tmp_path / "in"), tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_missing_files(edsr, tmp_path, capsys):
    assert infer(edsr, tmp_path / "none", tmp_path) == 2
    assert infer(tmp_path / "none.safetensors", images(tmp_path / "in"), tmp_path / "out") == 2
    complaints = capsys.readouterr().err
    assert "none: expected a file or a folder" in complaints and "none.safetensors" in complaints


def test_formats_and_what_they_lose(edsr, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(noise(9, 9, 4)).save(source / "a.png")
    assert infer(edsr, source, tmp_path / "out", "--format", "jpg", "--suffix", "_x2") == 0
    with Image.open(tmp_path / "out" / "a_x2.jpg") as result:
        assert (result.format, result.mode) == ("JPEG", "RGB")
    assert "1 results without transparency" in capsys.readouterr().out


def test_a_result_that_cannot_be_written_is_listed(edsr, tmp_path, capsys):
    source, out = images(tmp_path / "in"), tmp_path / "out"
    (out / "1.png").mkdir(parents=True)
    assert infer(edsr, source, out, "--overwrite") == 1
    assert "1.png: cannot be written" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png", "2.png"]


def test_what_cannot_be_read_or_named_is_listed(edsr, tmp_path, capsys, monkeypatch):
    source, out = images(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    (source / "0.png").rename(source / f"{'a' * 249}.png")
    (source / "locked").mkdir()
    real = os.scandir

    def scandir(path):
        if Path(path) == source / "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert infer(edsr, source, out, "--suffix", "_x2") == 1
    complaints = capsys.readouterr().err
    assert "aaa.png: cannot be written" in complaints
    assert "locked: the folder cannot be read: Permission denied" in complaints
    assert sorted(path.name for path in out.iterdir()) == ["1_x2.png", "2_x2.png"]


def test_a_full_disk_ends_the_run(edsr, tmp_path, capsys, monkeypatch):
    class Full:
        def __init__(self, stream):
            self._stream = stream

        def write(self, content):
            raise OSError(28, "No space left on device")

    real = encode.png.write_png
    monkeypatch.setattr(encode.png, "write_png", lambda stream, *rest: real(Full(stream), *rest))
    assert infer(edsr, images(tmp_path / "in", 6), tmp_path / "out") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failure_inside_the_network_is_listed(edsr, tmp_path, capsys, monkeypatch):
    real, calls = pipeline.restore_rows, []

    def sometimes(image, *rest):
        rows = real(image, *rest)
        calls.append(image)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        yield from rows

    monkeypatch.setattr(pipeline, "restore_rows", sometimes)
    assert infer(edsr, images(tmp_path / "in", 5), tmp_path / "out") == 1
    assert "1.png: RuntimeError: out of memory" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0.png",
        "2.png",
        "3.png",
        "4.png",
    ]


def test_it_runs_without_basicsr(edsr, tmp_path):
    source = images(tmp_path / "in", 1)
    code = (
        "import sys\n"
        "for name in ('basicsr', 'lmdb', 'skimage', 'matplotlib', 'torchvision', 'onnx',"
        " 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "from dhp_sr.infer import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "--model",
        edsr,
        "--input",
        source,
        "--output",
        tmp_path / "out",
    ]
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "0.png").exists()


@pytest.mark.slow
def test_two_runs_into_one_folder(edsr, tmp_path):
    """Both begin with nothing done: every result is there, whole, and nothing else."""
    source, output = images(tmp_path / "in", count=12, side=40), tmp_path / "out"
    command = [
        sys.executable,
        str(ROOT / "dhp_sr" / "infer.py"),
        "--model",
        str(edsr),
        "--input",
        str(source),
    ]
    command += ["--output", str(output), "--device", "cpu", "--threads", "1", "--quiet"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [one.communicate(timeout=120)[1] for one in both] == ["", ""] and [
        one.returncode for one in both
    ] == [0, 0]
    assert infer(edsr, source, tmp_path / "alone", "--threads", "1", "--quiet") == 0
    assert sorted(path.name for path in output.iterdir()) == sorted(
        path.name for path in source.iterdir()
    )
    for path in output.iterdir():
        assert np.array_equal(pixels(path), pixels(tmp_path / "alone" / path.name))
