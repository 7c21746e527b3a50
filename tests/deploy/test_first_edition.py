"""Model files written by the first edition load and give the same pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dhp_sr.deploy import load_model, read_manifest, register
from dhp_sr.surgery.rewrite import RewrittenNetwork

FOLDER = Path(__file__).parent / "first_edition"


class LiteralShuffle(nn.Module):
    """x + conv(shuffle(conv(x))), with the channels of the shuffle written into its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(2, 12, 3, padding=1)
        self.reduce = nn.Conv2d(12, 2, 3, padding=1)

    def forward(self, x):
        """Keep the shape (N, 2, H, W)."""
        n, _, h, w = x.shape
        features = self.expand(x).view(n, 2, 6, h, w).transpose(1, 2).reshape(n, 12, h, w)
        return x + self.reduce(features)


register("first_edition:LiteralShuffle", LiteralShuffle)

CASES = {
    "edsr_x2_uneven": {"architecture": "EDSR", "task": "sr", "scale": 2, "in_channels": 3},
    "dncnn_gray": {"architecture": "DnCNN", "task": "denoise", "scale": 1, "in_channels": 1},
    "rewritten_forward": {
        "architecture": "first_edition:LiteralShuffle",
        "task": "denoise",
        "scale": 1,
        "in_channels": 2,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_old_files_give_the_same_pixels(name):
    saved = np.load(FOLDER / f"{name}.npz")
    network = load_model(FOLDER / f"{name}.safetensors")
    with torch.no_grad():
        output = network(torch.from_numpy(saved["input"])).numpy()
    # Convolutions sum in another order on another processor, so not bit for bit.
    np.testing.assert_allclose(output, saved["output"], rtol=0, atol=1e-6)
    assert isinstance(network, RewrittenNetwork) == (name == "rewritten_forward")


@pytest.mark.parametrize("name", CASES)
def test_old_descriptions_are_read(name):
    manifest = read_manifest(FOLDER / f"{name}.safetensors")
    expected = json.loads((FOLDER / f"{name}.json").read_text())
    assert manifest == expected
    assert CASES[name].items() <= manifest.items()
