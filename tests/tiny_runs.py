"""Tiny images and tiny option files for whole runs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhp_sr.config.schema import Options

EDSR = {"type": "HyperEDSR", "num_feat": 8, "num_block": 1, "upscale": 2}
DNCNN = {"type": "HyperDnCNN", "num_in_ch": 1, "num_feat": 8, "num_layers": 4}


def save_images(folder: Path, count: int, side: int, channels: int = 3) -> Path:
    """Write smooth random images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (side // 4, side // 4, channels), dtype=np.uint8)
        image = Image.fromarray(coarse.squeeze()).resize((side, side), Image.Resampling.BICUBIC)
        image.save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """A folder with the sub-folders train and val."""
    folder = tmp_path_factory.mktemp("images")
    save_images(folder / "train", 3, 40)
    save_images(folder / "val", 2, 32)
    return folder


@pytest.fixture
def make_options(image_folder, tmp_path):
    """A function that makes the options of a tiny run, see `tiny_options`."""
    return lambda *args, **changes: tiny_options(image_folder, tmp_path, *args, **changes)


def tiny_options(
    image_folder: Path,
    root: Path,
    network: dict = EDSR,
    compress: dict | None = None,
    train: dict | None = None,
    **top,
) -> Options:
    """Options of a 12-iteration run: 4 dense, 4 search, 4 finetuning; `compress={}`: 12 dense."""
    data = {"type": "SRDataset"}
    if network["type"].endswith("DnCNN"):
        data = {"type": "NoiseDataset", "color": "gray", "sigma": 25.0}
    default_compress = {
        "target": {"macs": 0.5},
        "tolerance": 0.15,
        "round_to": 2,
        "min_width": 2,
        "dense_iter": 4,
        "search_iter": 4,
    }
    options = {
        "name": "tiny",
        "scale": 2 if data["type"] == "SRDataset" else 1,
        "num_gpu": 0,
        "manual_seed": 5,
        "network_g": network,
        "datasets": {
            "train": {
                **data,
                "dataroot_gt": str(image_folder / "train"),
                "gt_size": 16,
                "batch_size_per_gpu": 2,
            },
            "val": {**data, "name": "A", "dataroot_gt": str(image_folder / "val")},
        },
        "path": {"experiments_root": str(root / "experiments")},
        "compress": None if compress == {} else {**default_compress, **(compress or {})},
        "train": {
            "total_iter": 12,
            "optim_g": {"lr": 1e-3},
            "ema_decay": 0.9,
            "grad_clip": 1.0,
            **(train or {}),
        },
        "val": {"val_freq": 5},
        "logger": {"print_freq": 2, "save_checkpoint_freq": 3, "use_tb_logger": False},
        **top,
    }
    return Options.model_validate(options)
