"""Small images on disk, and option sections that read them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhp_sr.config.datasets import TrainDataset, ValDataset


@pytest.fixture
def make_image() -> Callable[..., np.ndarray]:
    """Make a random image, (height, width, channels); smooth enough to be no special case."""

    def make(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(
            0, 256, (height, width, channels), dtype=np.uint8
        )

    return make


@pytest.fixture
def folder_of(tmp_path, make_image) -> Callable[..., Path]:
    """Write PNG files of given sizes, (height, width[, channels]) by name, into a new folder."""

    def make(name: str, **sizes: tuple[int, ...]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for seed, (key, size) in enumerate(sizes.items()):
            Image.fromarray(make_image(*size, seed=seed).squeeze()).save(folder / f"{key}.png")
        return folder

    return make


@pytest.fixture
def train_options() -> Callable[..., TrainDataset]:
    """Options of a training set."""

    def make(root, **more) -> TrainDataset:
        values = {
            "type": "SRDataset",
            "dataroot_gt": _text(root),
            "gt_size": 16,
            "batch_size_per_gpu": 4,
            **more,
        }
        return TrainDataset(**values)

    return make


@pytest.fixture
def val_options() -> Callable[..., ValDataset]:
    """Options of a validation set."""

    def make(root, **more) -> ValDataset:
        return ValDataset(**{"type": "SRDataset", "dataroot_gt": _text(root), **more})

    return make


def _text(root) -> str | list[str]:
    return [str(one) for one in root] if isinstance(root, list) else str(root)
