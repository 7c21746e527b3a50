"""Small models to run, and images of every kind."""

import numpy as np
import pytest
import torch

from dhp_sr.archs import build
from dhp_sr.deploy import save_model
from dhp_sr.deploy.runtimes import open_runner

SMALL = {
    "edsr": ("EDSR", {"num_feat": 8, "num_block": 1, "upscale": 2}),
    "edsr_x4": ("EDSR", {"num_feat": 8, "num_block": 2, "upscale": 4}),
    "srresnet": ("SRResNet", {"num_feat": 8, "num_block": 1, "upscale": 3}),
    "dncnn": ("DnCNN", {"num_feat": 8, "num_layers": 4}),
    "unet": ("UNet", {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_levels": 3}),
}


@pytest.fixture
def model(tmp_path):
    """Make a model file."""

    def make(name):
        torch.manual_seed(0)
        kind, arguments = SMALL[name]
        path = tmp_path / f"{name}.safetensors"
        if not path.exists():
            save_model(build(kind, **arguments), path)
        return path

    return make


@pytest.fixture
def runner(model):
    """Open a model file."""
    return lambda name: open_runner(model(name), threads=1)


@pytest.fixture
def noise():
    """Random pixels."""

    def make(*shape, dtype=np.uint8, seed=0):
        generator = np.random.default_rng(seed)
        return generator.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)

    return make
