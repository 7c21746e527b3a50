"""The command line of `prepare_data.py`: results, interruption, resuming, mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhp_sr.data import prepare
from dhp_sr.data.bicubic import downscale
from dhp_sr.data.images import crop_to_multiple
from dhp_sr.data.sources import FileImage, find_images

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare_data.py"


@pytest.fixture
def hr(tmp_path) -> Path:
    folder = tmp_path / "hr"
    folder.mkdir()
    for seed, (name, shape) in enumerate(
        {"a": (50, 61, 3), "b": (40, 40), "c": (45, 70, 3)}.items()
    ):
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_crop(run, hr, tmp_path):
    code, text = run("crop", hr, tmp_path / "sub", "--size", 40, "--step", 10, "--workers", 1)
    assert code == 0 and "made from 3 images" in text
    original = find_images(hr)[0].read()
    squares = [image for image in find_images(tmp_path / "sub") if image.key.startswith("a_s")]
    corners = [
        (top, left) for top in (0, 10) for left in (0, 10, 20, 21)
    ]  # the last column is flush with the border
    assert [square.key for square in squares] == [f"a_s{number:03d}" for number in range(1, 9)]
    for square, (top, left) in zip(squares, corners, strict=True):
        np.testing.assert_array_equal(square.read(), original[top : top + 40, left : left + 40])


def test_threshold_and_multiple():
    assert prepare.Crop(40, 10, 1).starts(61) == [0, 10, 20]
    assert prepare.Crop(40, 10, 0).starts(61) == [0, 10, 20, 21]
    assert prepare.Crop(40, 100, 0).starts(40) == [0]


def test_crops_of_hr_and_lr_fit(run, hr, tmp_path):
    assert run("lr", hr, tmp_path / "x4", "--scale", 4, "--workers", 1)[0] == 0
    hr_crop = (
        "crop",
        hr,
        tmp_path / "hr_sub",
        "--size",
        32,
        "--step",
        16,
        "--multiple",
        4,
        "--workers",
        1,
    )
    lr_crop = (
        "crop",
        tmp_path / "x4",
        tmp_path / "x4_sub",
        "--size",
        8,
        "--step",
        4,
        "--workers",
        1,
    )
    assert run(*hr_crop)[0] == run(*lr_crop)[0] == 0
    large, small = find_images(tmp_path / "hr_sub"), find_images(tmp_path / "x4_sub")
    assert [image.key for image in large] == [image.key for image in small]
    for one, other in zip(
        large, small, strict=True
    ):  # apart from the border, as if made from the sub-image
        np.testing.assert_array_equal(
            downscale(one.read(), 4)[2:-2, 2:-2], other.read()[2:-2, 2:-2]
        )


def test_lr(run, hr, tmp_path):
    assert (
        run("lr", hr, tmp_path / "x3", "--scale", 3, "--template", "{}x3", "--workers", 2)[0] == 0
    )
    made = {image.key: image.read() for image in find_images(tmp_path / "x3")}
    assert set(made) == {"ax3", "bx3", "cx3"}
    for image in find_images(hr):
        np.testing.assert_array_equal(
            made[f"{image.key}x3"], downscale(crop_to_multiple(image.read(), 3), 3)
        )


def test_lmdb_and_verify(run, hr, tmp_path):
    target = tmp_path / "hr.lmdb"
    assert run("lmdb", hr, target) == (0, f"{target}: made from 3 images\n")
    assert run("verify", target, "--source", hr) == (0, f"{target}: sound\n")
    meta = target / "meta_info.txt"
    meta.write_text(meta.read_text().replace("(50,61,3)", "(50,60,3)"))
    code, text = run("verify", target)
    assert code == 2 and "a: meta_info.txt" in text and "(50, 60, 3)" in text


@pytest.mark.parametrize("command", ["crop", "lr", "lmdb"])
def test_interrupted_run_goes_on(run, hr, tmp_path, monkeypatch, command):
    arguments = {
        "crop": ("--size", 40, "--workers", 1),
        "lr": ("--scale", 2, "--workers", 1),
        "lmdb": (),
    }[command]
    monkeypatch.setattr("dhp_sr.data.lmdb_write._COMMIT_BYTES", 1)
    whole, target = tmp_path / "whole.lmdb", tmp_path / "broken.lmdb"
    assert run(command, hr, whole, *arguments)[0] == 0

    read = FileImage.read
    with monkeypatch.context() as patch:
        patch.setattr(
            FileImage, "read", lambda image: _break_off(image) if image.key == "b" else read(image)
        )
        code, text = run(command, hr, target, *arguments)
    assert code == 130 and "again" in text
    assert not target.exists() and (tmp_path / "broken.lmdb.part").is_dir()

    (tmp_path / "broken.lmdb.part" / ".x.png.123.part").write_bytes(b"left by a kill")
    reads: list[str] = []
    monkeypatch.setattr(FileImage, "read", lambda image: reads.append(image.key) or read(image))
    assert run(command, hr, target, *arguments)[0] == 0
    assert reads == ["b", "c"]  # a was done
    assert not (tmp_path / "broken.lmdb.part").exists()
    if command == "lmdb":
        assert run("verify", target, "--source", hr)[0] == 0
    else:
        assert contents(target) == contents(whole)


def _break_off(image: FileImage) -> np.ndarray:
    raise KeyboardInterrupt(image.key)


def test_complete_target_is_left_alone(run, hr, tmp_path):
    command = ("lr", hr, tmp_path / "x2", "--scale", 2, "--workers", 1)
    run(*command)
    before = contents(tmp_path / "x2")
    code, text = run(*command)
    assert code == 0 and "already complete, nothing to do" in text
    code, text = run(*command[:3], "--scale", 4)
    assert code == 2 and "x2: exists" in text
    assert contents(tmp_path / "x2") == before


def test_unfinished_target_of_other_settings(run, hr, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(FileImage, "read", _break_off)
        assert run("lr", hr, tmp_path / "x", "--scale", 2, "--workers", 1)[0] == 130
    code, text = run("lr", hr, tmp_path / "x", "--scale", 4, "--workers", 1)
    assert code == 2 and "x.part: " in text


def test_foreign_folder_is_not_touched(run, hr, tmp_path):
    before = contents(hr)
    code, text = run("lr", hr, hr, "--scale", 2, "--workers", 1)
    assert code == 2 and "another folder" in text and contents(hr) == before
    # Neither under the name of an unfinished target, which users are told to delete.
    hr.rename(tmp_path / "x2.part")
    code, text = run("lr", tmp_path / "x2.part", tmp_path / "x2", "--scale", 2, "--workers", 1)
    assert code == 2 and "delete" not in text and contents(tmp_path / "x2.part") == before


@pytest.mark.parametrize("is_database", [False, True])
def test_edited_images_of_the_same_length_are_seen(run, hr, tmp_path, is_database):
    source = hr
    if is_database:
        source = tmp_path / "hr.lmdb"
        assert run("lmdb", hr, source)[0] == 0
    command = ("lr", source, tmp_path / "x2", "--scale", 2, "--workers", 1)
    assert run(*command)[0] == 0
    file = source / ("data.mdb" if is_database else "a.png")
    # Touched or copied, it is the same.
    os.utime(file, (1, 1))
    assert "already complete" in run(*command)[1]
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    code, text = run(*command)
    assert code == 2 and "edited since" in text


def test_targets_of_earlier_versions_are_complete(run, hr, tmp_path):
    command = ("lr", hr, tmp_path / "x2", "--scale", 2, "--workers", 1)
    run(*command)
    record = tmp_path / "x2" / "prepare.json"
    written = json.loads(record.read_text())
    del written["state"], written["content"]
    record.write_text(json.dumps(written))
    assert "already complete" in run(*command)[1]


def test_a_target_may_be_a_link_to_a_folder(run, hr, tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("empty", "missing"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "empty").mkdir()
    for name in ("empty", "missing"):
        assert run("lr", hr, tmp_path / name, "--scale", 2, "--workers", 1)[0] == 0
        assert (tmp_path / name).is_symlink() and len(find_images(tmp_path / "disk" / name)) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_image(run, hr, tmp_path, workers):
    (hr / "b.png").write_bytes((hr / "b.png").read_bytes()[:-300])
    code, text = run("crop", hr, tmp_path / "sub", "--size", 40, "--workers", workers)
    assert code == 2 and "b.png: " in text
    assert not (tmp_path / "sub").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("crop", "{hr}", "{out}", "--size", "48"), "c.png (45x70)"),
        (("crop", "{out}", "{out}"), "nothing"),
        (("lr", "{hr}", "{out}", "--scale", "2", "--template", "x2"), "'x2'"),
        (
            ("lr", "{hr}", "{out}", "--scale", "2", "--template", "../{}"),
            "'../{}'",
        ),
        (("lr", "{hr}", "", "--scale", "2"), "'.'"),
        (("lmdb", "{hr}", "{out}"), ".lmdb"),
        (("lmdb", "{hr}", "{hr}/a.png/x.lmdb"), "x.lmdb.part"),
        (("verify", "{out}.lmdb"), "o.lmdb: "),
    ],
)
def test_mistakes(run, hr, tmp_path, arguments, message):
    code, text = run(
        *(
            argument.replace("{hr}", str(hr)).replace("{out}", str(tmp_path / "o"))
            for argument in arguments
        )
    )
    assert code == 2 and message in text and text.startswith("error: ")


def test_bad_numbers(script, capsys):
    with pytest.raises(SystemExit, match="2"):
        script.main(["crop", "a", "b", "--size", "0"])
    assert "'0'" in capsys.readouterr().err


def test_as_a_program(tmp_path, hr):
    """From another working directory, without the package installed."""
    command = [sys.executable, str(SCRIPT), "lr", "hr", "x2", "--scale", "2", "--workers", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(find_images(tmp_path / "x2")) == 3
