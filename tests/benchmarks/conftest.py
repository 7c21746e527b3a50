"""A tiny option file with pictures of its own."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image


@pytest.fixture
def noise_options(tmp_path) -> Path:
    """Grey denoising of three pictures; the test set is called tiny."""
    rng = np.random.default_rng(0)
    for folder, count in (("train", 3), ("val", 1)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            picture = Image.fromarray(rng.integers(0, 256, (10, 10), dtype=np.uint8)).resize(
                (40, 40)
            )
            picture.save(tmp_path / folder / f"{index}.png")
    data = {"type": "NoiseDataset", "color": "grey", "sigma": 25.0}
    options = {
        "name": "tiny",
        "scale": 1,
        "num_gpu": 0,
        "network_g": {"type": "HyperDnCNN", "num_in_ch": 1, "num_feat": 8, "num_layers": 4},
        "datasets": {
            "train": {
                **data,
                "dataroot_gt": str(tmp_path / "train"),
                "gt_size": 16,
                "batch_size_per_gpu": 2,
            },
            "val": {**data, "name": "tiny", "dataroot_gt": str(tmp_path / "val")},
        },
        "compress": {
            "target": {"macs": 0.5},
            "tolerance": 0.15,
            "round_to": 2,
            "min_width": 2,
            "search_iter": 4,
        },
        "train": {"total_iter": 12, "optim_g": {"lr": 1e-3}},
    }
    path = tmp_path / "tiny.yml"
    path.write_text(yaml.safe_dump(options))
    return path
