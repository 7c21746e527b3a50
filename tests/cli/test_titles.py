"""What tables call models and test sets."""

from pathlib import Path

import pytest

from dhp_sr.cli.titles import model_titles, set_titles


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
    assert model_titles([Path(path) for path in paths]) == names


def test_sets_are_named_after_the_folder_that_tells_them_apart():
    folders = ["data/Set5/HR", "data/Set14/GTmod12", "mine", "other/mine", "third/mine"]
    assert set_titles(folders) == ["Set5", "Set14", "mine", "mine#2", "mine#3"]
