"""Models side by side: their names, and that they do the same job."""

from pathlib import Path

import pytest
import torch

from dhp_sr.archs import build
from dhp_sr.cli.models import model_names, open_models, set_names
from dhp_sr.deploy import save_model
from dhp_sr.utils.errors import UserError


def test_half_precision_files_are_scored_in_float32(tmp_path):
    save_model(build("DnCNN", num_feat=4, num_layers=3).half(), tmp_path / "half.safetensors")
    (candidate,) = open_models([tmp_path / "half.safetensors"], torch.device("cpu"), 1)
    assert {parameter.dtype for parameter in candidate.network.parameters()} == {torch.float32}


def test_models_of_different_jobs(tmp_path):
    save_model(build("EDSR", num_feat=4, num_block=1, upscale=2), tmp_path / "x2.safetensors")
    save_model(build("EDSR", num_feat=4, num_block=1, upscale=4), tmp_path / "x4.safetensors")
    both = [tmp_path / "x2.safetensors", tmp_path / "x4.safetensors"]
    with pytest.raises(UserError, match=r"x4\.safetensors: .*sr x2.*sr x4"):
        open_models(both, torch.device("cpu"), 1)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"no\.onnx: "):
        open_models([tmp_path / "no.onnx"], torch.device("cpu"), 1)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/models/pruned.safetensors"], ["pruned"]),
        (["a/models/pruned.safetensors", "a/models/dense.safetensors"], ["pruned", "dense"]),
        (["a/models/pruned.safetensors", "b/models/pruned.safetensors"], ["a/pruned", "b/pruned"]),
        (
            ["a/models/pruned.safetensors", "a/models/pruned.onnx"],
            ["pruned.safetensors", "pruned.onnx"],
        ),
        (["a/x.safetensors", "b/x.safetensors", "c/y.onnx"], ["a/x", "b/x", "y"]),
        (["a/b/x.onnx", "c/b/x.onnx"], ["a/b/x.onnx", "c/b/x.onnx"]),
    ],
)
def test_names_tell_models_apart(paths, names):
    assert model_names([Path(path) for path in paths]) == names


def test_sets_are_named_after_the_folder_that_tells_them_apart():
    folders = ["data/Set5/HR", "data/Set14/GTmod12", "mine", "other/mine", "third/mine"]
    assert set_names(folders) == ["Set5", "Set14", "mine", "mine#2", "mine#3"]
