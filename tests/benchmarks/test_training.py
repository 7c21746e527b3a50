"""The batches that benchmarks train on are those of train.py, whatever the task."""

import pytest
import torch
from class_pictures import class_options, save_classes

from benchmarks.training import batches
from dhp_sr.basicsr_adapter.model import DHPModel
from dhp_sr.config import load_options
from dhp_sr.training import driver as pipeline


@pytest.fixture
def options(request, tmp_path):
    if request.param == "denoise":
        return load_options(
            request.getfixturevalue("noise_options"), ["compress=null", "train.total_iter=3"]
        )
    for part in ("train", "test"):
        save_classes(tmp_path / "classes" / part, 3)
    return class_options(tmp_path / "classes", tmp_path, compress=None, train={"total_iter": 3})


@pytest.mark.parametrize("options", ["denoise", "classification"], indirect=True)
def test_the_same_batches(options, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        DHPModel, "feed_data", lambda self, data: (seen.append(data), setattr(self, "batch", data))
    )
    pipeline.train(options.model_copy(update={"name": "whole"}), root=tmp_path)
    found = list(batches(options, 1, 3))
    assert [iteration for iteration, _ in found] == [1, 2] and len(seen) == 3
    for (_, batch), fed in zip(found, seen[1:], strict=True):
        assert batch.keys() == fed.keys()
        assert all(
            torch.equal(batch[key], fed[key])
            for key in batch
            if isinstance(batch[key], torch.Tensor)
        )
