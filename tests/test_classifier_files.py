"""A classifier's file through the commands: exported, scored, timed; not run on images to
restore.
"""

import json

import numpy as np
import pytest
import torch
from class_images import CLASSES, save_classes
from PIL import Image

from dhp_sr.archs import build
from dhp_sr.deploy import save_model
from dhp_sr.export import main as export
from dhp_sr.infer import main as infer
from dhp_sr.test import main as score

SIDE = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    network = build("ResNet", num_feat=4, depth=8, input_size=SIDE, num_classes=len(CLASSES))
    path = tmp_path_factory.mktemp("classifier") / "c.safetensors"
    save_model(network.eval(), path)
    return path


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    save_classes(folder / "test", 4)
    return folder


@pytest.fixture(scope="module")
def onnx(model):
    pytest.importorskip("onnxscript")
    assert export(["--model", str(model), "--format", "onnx"]) == 0
    return model.with_suffix(".onnx")


@pytest.mark.parametrize("form", ["pt2", "safetensors"])
def test_an_export_says_which_sizes_it_takes(model, tmp_path, form, capsys):
    assert (
        export(["--model", str(model), "--format", form, "--output", str(tmp_path / f"x.{form}")])
        == 0
    )
    text = capsys.readouterr().out
    assert f"height and width from {SIDE} on" in text and "any height" not in text
    if form == "pt2":
        program = torch.export.load(tmp_path / "x.pt2").module()
        assert program(torch.rand(3, 3, SIDE, SIDE + 5)).shape == (3, len(CLASSES))
        with pytest.raises((AssertionError, RuntimeError)):
            program(torch.rand(1, 3, SIDE - 1, SIDE))


@pytest.mark.slow
def test_both_runtimes_score_side_by_side(model, onnx, image_folder, tmp_path, capsys):
    given = [
        "--model",
        str(model),
        str(onnx),
        "--data",
        str(image_folder),
        "--repeats",
        "2",
        "--threads",
        "1",
    ]
    assert score([*given, "--device", "cpu", "--json", str(tmp_path / "s.json")]) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    eager, runtime = found["rows"]
    assert (eager["runtime"], runtime["runtime"]) == ("torch", "onnxruntime")
    for (name, scores), other in zip(eager["sets"].items(), runtime["sets"].values(), strict=True):
        assert name and scores["images"] == 4 * len(CLASSES)
        assert scores == {key: pytest.approx(value, abs=1e-5) for key, value in other.items()}
    assert found["macs_input"] == [1, 3, SIDE, SIDE] and eager["macs"] == runtime["macs"] > 0
    for row in found["rows"]:
        assert row["latency"]["cpu"]["input"] == row["memory"]["input"] == [1, 3, SIDE, SIDE]
        assert row["latency_ms"] > 0 and row["memory"]["process_mib"] > 0
    text = capsys.readouterr().out
    assert (
        "top-1 error %" in text
        and "Peak memory in a fresh process" in text
        and "Cost, MACs G" in text
    )


@pytest.mark.parametrize(
    "more, message",
    (
        (["--size", "64", "64"], "--size"),
        (["--crop_border", "4"], "--crop_border"),
    ),
)
def test_arguments_of_restoration(model, image_folder, more, message, capsys):
    assert score(["--model", str(model), "--data", str(image_folder), "--repeats", "0", *more]) == 2
    assert message in capsys.readouterr().err


def test_models_of_two_jobs(model, image_folder, tmp_path, capsys):
    save_model(build("DnCNN", num_feat=4), tmp_path / "d.safetensors")
    assert (
        score(["--model", str(model), str(tmp_path / "d.safetensors"), "--data", str(image_folder)])
        == 2
    )
    message = capsys.readouterr().err
    assert "d.safetensors" in message and "3 x 8 x 8" in message


def test_it_restores_nothing(model, onnx, tmp_path, capsys):
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "a.png")
    for path in (model, onnx):
        command = [
            "--model",
            path,
            "--input",
            tmp_path / "a.png",
            "--output",
            tmp_path / "out",
            "--device",
            "cpu",
        ]
        assert infer([str(part) for part in command]) == 2
        error = capsys.readouterr().err
        assert str(path) in error and "classification" in error
    assert not (tmp_path / "out").exists()
