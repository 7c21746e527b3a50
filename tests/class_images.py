"""Tiny labeled images and the options of tiny classification runs."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dhp_sr.config.schema import Options

CLASSES = ("cat", "dog", "frog")
RESNET = {
    "type": "HyperResNet",
    "depth": 8,
    "num_feat": 4,
    "num_classes": len(CLASSES),
    "input_size": 8,
}


def save_classes(folder: Path, count: int, classes=CLASSES, side: int = 8) -> Path:
    """Write `count` noisy images of each class; classes differ in their mean color."""
    rng = np.random.default_rng(count)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = rng.integers(0, 120, (side, side, 3), dtype=np.uint8)
            image[..., number % 3] += 100
            Image.fromarray(image).save(folder / name / f"{index}.png")
    return folder


def class_options(image_folder: Path, tmp_path: Path, **changes: Any) -> Options:
    """Options of a 12-iteration run: 4 dense, 4 search, 4 finetuning.

    `changes` replace whole sections, or some keys of a section where they are dicts.
    """
    data = {"type": "ClassificationDataset", "dataroot": str(image_folder)}
    options: dict[str, Any] = {
        "name": "tiny",
        "model_type": "DHPClassificationModel",
        "num_gpu": 0,
        "manual_seed": 5,
        "network_g": RESNET,
        "datasets": {
            "train": {**data, "padding": 1, "batch_size_per_gpu": 4},
            "val": {**data, "name": "A"},
        },
        "path": {"experiments_root": str(tmp_path / "experiments")},
        "compress": {
            "target": {"macs": 0.5},
            "tolerance": 0.1,
            "round_to": 1,
            "min_width": 2,
            "dense_iter": 4,
            "search_iter": 4,
        },
        "train": {
            "total_iter": 12,
            "ema_decay": 0.5,
            "optim_g": {"type": "SGD", "lr": 0.05, "nesterov": True, "weight_decay": 1e-3},
            "cls_opt": {"label_smoothing": 0.1},
        },
        "val": {"val_freq": 5},
        "logger": {"print_freq": 2, "save_checkpoint_freq": 3, "use_tb_logger": False},
    }
    for key, value in changes.items():
        if isinstance(value, dict) and key in options:
            options[key] = {**options[key], **value}
        else:
            options[key] = value
    return Options.model_validate(options)
