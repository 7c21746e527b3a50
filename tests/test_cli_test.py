"""The command line of scoring."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhp_sr.archs import build
from dhp_sr.deploy import save_model
from dhp_sr.test import main

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--repeats", "0")


@pytest.fixture
def image_folder(tmp_path):
    folder = tmp_path / "Set2" / "HR"
    folder.mkdir(parents=True)
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def edsr(tmp_path):
    save_model(build("EDSR", num_feat=4, num_block=1, upscale=2), tmp_path / "edsr.safetensors")
    return str(tmp_path / "edsr.safetensors")


@pytest.fixture
def dncnn(tmp_path):
    save_model(build("DnCNN", num_feat=4, num_layers=3), tmp_path / "dncnn.safetensors")
    return str(tmp_path / "dncnn.safetensors")


def test_a_table_and_its_json(edsr, image_folder, tmp_path, capsys):
    out = tmp_path / "scores.json"
    arguments = ["--data", str(image_folder), "--max_images", "1", *QUICK]
    assert main(["--model", edsr, *arguments, "--json", str(out)]) == 0
    table = capsys.readouterr().out
    assert "Set2 PSNR-Y dB" in table and "bicubic" in table and "edsr" in table
    assert "PSNR-RGB" in table and "NTIRE efficient SR" in table
    rows = json.loads(out.read_text())["rows"]
    assert [row["sets"]["Set2"]["images"] for row in rows] == [1, 1]


def test_denoising_needs_a_level(dncnn, edsr, image_folder, capsys):
    assert main(["--model", dncnn, "--data", str(image_folder), "--sigma", "25", *QUICK]) == 0
    assert "noisy" in capsys.readouterr().out
    assert main(["--model", dncnn, "--data", str(image_folder)]) == 2
    assert "--sigma" in capsys.readouterr().err
    assert main(["--model", edsr, "--data", str(image_folder), "--sigma", "25"]) == 2
    assert "--sigma" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--model", "x"], ["--data", "x"]])
def test_too_few_arguments(arguments, capsys):
    assert main(arguments) == 2
    assert "--model" in capsys.readouterr().err


def test_what_the_option_file_says_is_not_said_again(capsys):
    assert main(["-opt", "options/quickstart.yml", "--sigma", "25"]) == 2
    assert "--sigma" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "values"), [("--size", ["0", "8"]), ("--threads", ["0"]), ("--repeats", ["-1"])]
)
def test_measures_that_make_no_sense(edsr, image_folder, option, values, capsys):
    assert main(["--model", edsr, "--data", str(image_folder), option, *values]) == 2
    assert f"{option}: " in capsys.readouterr().err
    assert main(["-opt", "options/quickstart.yml", option, *values]) == 2
    assert option in capsys.readouterr().err


def test_several_models_side_by_side(edsr, image_folder, tmp_path, capsys):
    save_model(build("EDSR", num_feat=6, num_block=1, upscale=2), tmp_path / "wider.safetensors")
    assert (
        main(
            [
                "--model",
                edsr,
                str(tmp_path / "wider.safetensors"),
                "--data",
                str(image_folder),
                *QUICK,
            ]
        )
        == 0
    )
    line = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("2 images")
    )
    assert line.split()[2:] == ["bicubic", "edsr", "wider"]


def test_nothing_of_training_is_imported(edsr, image_folder):
    """Nor is a package of others, for a network of our own: not for scores, not for a plan."""
    code = (
        "import sys; from dhp_sr.test import main; code = main(sys.argv[1:]);"
        "from dhp_sr.plan import main as plan;"
        "code += plan(['--arch', 'DnCNN', 'num_feat=8', 'num_layers=3']);"
        "found = {'basicsr', 'torchvision', 'lmdb', 'skimage', 'matplotlib', 'tensorboard'};"
        "found.add('onnx');"
        "found &= set(sys.modules);"
        "assert not found, found; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "--model", edsr, "--data", str(image_folder), *QUICK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_missing_files(edsr, tmp_path, capsys):
    assert main(["--model", str(tmp_path / "no.safetensors"), "--data", str(tmp_path)]) == 2
    assert "no.safetensors" in capsys.readouterr().err
    assert main(["--model", edsr, "--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_pickle_is_no_model(image_folder, tmp_path, capsys):
    import pickle

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(tmp_path))
    assert main(["--model", str(tmp_path / "evil.pth"), "--data", str(image_folder)]) == 2
    assert "evil.pth" in capsys.readouterr().err


def test_a_model_that_does_not_fit_the_option_file(edsr, dncnn, capsys):
    for model, change, expected in (
        (
            edsr,
            ["scale=3", "network_g.upscale=3"],
            "scale: 3",
        ),
        (dncnn, [], "scale: 2"),
    ):
        assert (
            main(
                ["-opt", "options/quickstart.yml", "--model", model, "--set", "num_gpu=0", *change]
            )
            == 2
        )
        message = capsys.readouterr().err
        assert "does not fit options/quickstart.yml" in message and expected in message


def test_scores_that_cannot_be_written(edsr, image_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert (
        main(
            [
                "--model",
                edsr,
                "--data",
                str(image_folder),
                *QUICK,
                "--json",
                str(tmp_path / "file" / "x.json"),
            ]
        )
        == 2
    )
    shown = capsys.readouterr()
    assert "cannot read or write" in shown.err and "bicubic" in shown.out
    assert (tmp_path / "file").read_text() == "mine"
