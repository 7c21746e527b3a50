"""Bare weights of a result that keeps the constructor's shape."""

import errno

import pytest
import torch

from dhp_sr.archs import build
from dhp_sr.cli.compress_drop_in import write_drop_in
from dhp_sr.zoo.checkpoints import Checkpoint

ARGUMENTS = {"num_in_ch": 1, "num_feat": 8, "num_layers": 4}


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    network = build("DnCNN", **ARGUMENTS).eval()
    checkpoint = Checkpoint(network, "DnCNN", ARGUMENTS, "net.pth")
    write_drop_in(network, checkpoint, tmp_path / "whole.pth")
    weights = torch.load(tmp_path / "whole.pth", weights_only=True)["params"]
    assert weights.keys() == network.state_dict().keys()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write_drop_in(network, checkpoint, tmp_path / "full" / "net.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert not list((tmp_path / "full").iterdir())
