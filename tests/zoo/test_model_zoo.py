"""Trained models that come with the program: listed, resolved by every command, whole."""

import json

import numpy as np
import pytest
from PIL import Image

from dhp_sr import export, infer
from dhp_sr import test as evaluate
from dhp_sr.archs import build
from dhp_sr.deploy import load_model, save_model
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo import model_zoo
from dhp_sr.zoo.model_zoo import asks_for_listing, resolve_model, zoo_listing, zoo_models

MAX_BYTES = 1_000_000


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A zoo of one tiny model, in place of the one that comes with the program."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    network = build("EDSR", num_feat=4, num_block=1, upscale=2)
    scores = {"Set5": {"psnr_y_db": 31.234}}
    save_model(
        network, folder / "tiny_x2.safetensors", macs=2_500_000, macs_input=[1, 3, 64, 32],
        scores=scores,
    )  # fmt: skip
    (folder / "index.json").write_text(json.dumps({"tiny_x2": "A tiny network for tests."}))
    monkeypatch.setattr(model_zoo, "FOLDER", folder)
    return folder


def test_the_listing_names_size_task_and_score(zoo):
    heading, row = zoo_listing().splitlines()
    assert heading.split() == ["model", "task", "size", "MACs", "score"]
    for fact in ("zoo:tiny_x2", "sr x2", "0.0", "0.0025 G at 32x64", "31.23 dB", "A tiny network"):
        assert fact in row


def test_names_stand_for_files(zoo):
    assert resolve_model("zoo:tiny_x2") == zoo / "tiny_x2.safetensors"
    assert str(resolve_model("a/b.onnx")) == "a/b.onnx"
    with pytest.raises(UserError, match=r"'tiny_x3'.*'tiny_x2'"):
        resolve_model("zoo:tiny_x3")
    with pytest.raises(UserError, match="did you mean zoo:tiny_x2"):
        resolve_model("tiny_x2")
    assert asks_for_listing("zoo:") and asks_for_listing(["zoo:"])
    assert not asks_for_listing(None) and not asks_for_listing("zoo:tiny_x2")


@pytest.mark.parametrize("index", ["{", "[1]", '{"gone": "not there"}'])
def test_a_damaged_index_is_a_users_error(zoo, index):
    (zoo / "index.json").write_text(index)
    with pytest.raises(UserError, match=r"index\.json"):
        zoo_models()


def test_an_empty_zoo_says_so(tmp_path):
    assert zoo_models(tmp_path) == [] and str(tmp_path) in zoo_listing(tmp_path)


@pytest.mark.parametrize("command", [export.main, infer.main, evaluate.main])
def test_every_command_lists_the_zoo(zoo, command, capsys):
    assert command(["--model", "zoo:"]) == 0
    assert "zoo:tiny_x2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (export.main, ["--format", "pt2"]),
        (infer.main, ["--input", "in.png", "--output", "out"]),
        (evaluate.main, ["--data", "."]),
    ],
)
def test_an_unknown_name_ends_with_2(zoo, command, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("in.png")
    assert command(["--model", "zoo:none", *arguments]) == 2
    assert "'none'" in capsys.readouterr().err


def test_commands_take_a_name_for_a_file(zoo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "HR").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "HR" / "a.png")
    assert infer.main(["--model", "zoo:tiny_x2", "--input", "HR", "--output", "out"]) == 0
    with Image.open("out/a.png") as result:
        assert result.size == (48, 48)
    assert evaluate.main(["--model", "zoo:tiny_x2", "--data", "HR", "--repeats", "0"]) == 0
    assert "tiny_x2" in capsys.readouterr().out
    # The default output is the current folder: the zoo's may be read-only.
    assert export.main(["--model", "zoo:tiny_x2", "--format", "safetensors", "--half"]) == 0
    assert (tmp_path / "tiny_x2_fp16.safetensors").is_file()
    assert sorted(path.name for path in zoo.iterdir()) == ["index.json", "tiny_x2.safetensors"]


def test_the_models_of_the_program_are_small_and_load():
    """The index and the folder agree; an empty zoo passes."""
    models = zoo_models()
    files = sorted(path.stem for path in model_zoo.FOLDER.glob("*.safetensors"))
    assert sorted(model.name for model in models) == files
    for model in models:
        assert model.file_bytes < MAX_BYTES and model.summary
        assert model.manifest()["licence"]
        load_model(model.path)
