"""The commands on bad and odd input: one clear message, exit code 2, nothing half written, bounded
time and memory.
"""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from dhp_sr.archs import build
from dhp_sr.deploy import save_model
from dhp_sr.export import main as export
from dhp_sr.infer import main as infer
from dhp_sr.report import main as report
from dhp_sr.utils.files import write_text

TINY = {"num_feat": 4, "num_block": 1, "upscale": 2}


@pytest.fixture(autouse=True)
def _limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back afterwards


@pytest.fixture
def model(tmp_path):
    save_model(build("EDSR", **TINY), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def refused(done, capsys):
    assert done == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    return error


@pytest.mark.parametrize(
    "arguments", (["num_feat=100000000"], ["num_block=100000000"], ["num_feat=16384"])
)
def test_arguments_beyond_the_file_cost_nothing(arguments, tmp_path, capsys):
    torch.save(build("EDSR", **TINY).state_dict(), tmp_path / "m.pth")
    command = [
        "--model",
        str(tmp_path / "m.pth"),
        "--format",
        "safetensors",
        "--arch",
        "EDSR",
        *arguments,
    ]
    error = refused(export(command), capsys)
    assert "larger network than the file holds" in error or "do not fit EDSR" in error
    assert [path.name for path in tmp_path.iterdir()] == ["m.pth"]


@pytest.mark.parametrize(
    "more, message",
    (
        (["--tolerance", "0"], "--tolerance"),
        (["--tolerance", "nan"], "nan"),
        (["--licence", "\udcff"], "--license"),
        (["--output", "FOLDER.onnx"], "FOLDER.onnx"),
    ),
)
def test_mistakes_are_found_before_an_export_begins(more, message, model, capsys, monkeypatch):
    monkeypatch.chdir(model.parent)
    os.mkdir("FOLDER.onnx")
    assert message in refused(export(["--model", "missing", "--format", "onnx", *more]), capsys)
    assert sorted(os.listdir()) == ["FOLDER.onnx", "m.safetensors"]


def test_a_pipe_among_the_images_is_not_waited_for(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "in" / f"{'n' * 251}.png")
    command = [
        "--model",
        model,
        "--input",
        tmp_path / "in",
        "--output",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    assert infer([str(part) for part in command]) == 1
    assert "pipe.png: not a regular file" in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == [f"{'n' * 251}.png"]  # as long as a name may be


@pytest.mark.parametrize("suffix", ("/x", "/../../x", "a\\b"))
def test_a_suffix_is_no_path(suffix, model, tmp_path, capsys):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    command = [
        "--model",
        str(model),
        "--input",
        str(tmp_path / "a.png"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert f"--suffix: expected an end of a file's name, such as _x4, found {suffix!r}" in refused(
        infer([*command, "--suffix", suffix]), capsys
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, content, message",
    (
        ("metrics.json", b"[" * 100_000, "JSON"),
        ("curves.csv", b"\xff\x00\n", "CSV"),
        ("latents.csv", b"\xff\x00\n", "CSV"),
    ),
)
def test_files_of_a_run_that_cannot_be_read(name, content, message, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    error = refused(report([str(tmp_path)]), capsys)
    assert name in error and message in error
    assert os.listdir(tmp_path) == [name]


def test_a_pipe_in_a_run_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "metrics.json")
    assert "metrics.json: " in refused(report([str(tmp_path)]), capsys)


def test_names_as_long_as_the_file_system_allows(tmp_path):
    write_text(tmp_path / ("ü" * 127), "text")
    assert os.listdir(tmp_path) == ["ü" * 127]


def test_more_threads_than_a_machine_can_make(model, tmp_path, capsys):
    command = [
        "--model",
        model,
        "--input",
        tmp_path,
        "--output",
        tmp_path / "out",
        "--threads",
        999_999,
    ]
    assert "--threads: expected a number from 1 to 1024" in refused(
        infer([str(part) for part in command]), capsys
    )
    assert not (tmp_path / "out").exists()
