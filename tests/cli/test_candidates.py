"""Models side by side: their names, and that they do the same job."""

import pytest
import torch

from dhp_sr.archs import build
from dhp_sr.cli.candidates import open_candidates
from dhp_sr.deploy import save_model
from dhp_sr.utils.errors import UserError


def test_half_precision_files_are_scored_in_float32(tmp_path):
    save_model(build("DnCNN", num_feat=4, num_layers=3).half(), tmp_path / "half.safetensors")
    (candidate,) = open_candidates([tmp_path / "half.safetensors"], torch.device("cpu"), 1)
    assert {parameter.dtype for parameter in candidate.network.parameters()} == {torch.float32}


def test_models_of_different_jobs(tmp_path):
    save_model(build("EDSR", num_feat=4, num_block=1, upscale=2), tmp_path / "x2.safetensors")
    save_model(build("EDSR", num_feat=4, num_block=1, upscale=4), tmp_path / "x4.safetensors")
    both = [tmp_path / "x2.safetensors", tmp_path / "x4.safetensors"]
    with pytest.raises(
        UserError, match=r"expected sr x2 of 3 channel.* found sr x4 .*; score them apart"
    ):
        open_candidates(both, torch.device("cpu"), 1)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"no\.onnx: expected a model, found no file"):
        open_candidates([tmp_path / "no.onnx"], torch.device("cpu"), 1)
