"""Folder of a run with everything that its page can show."""

import io
import json

import numpy as np
import pytest
from PIL import Image

NAME = "<img src=x onerror=alert(1)>"
"""A run's name that would be markup if it were not escaped."""

OPTIONS = """name: edsr_x4
scale: 4
network_g: {type: HyperEDSR, num_feat: 64}
datasets:
  train: {type: SRDataset}
  val_1: {type: SRDataset, name: Set5}
  val_2: {type: SRDataset, name: Set14}
compress: {method: dhp}
train: {total_iter: 40}
"""

LATENTS = """iteration,group,latents
21,conv_first,1 1 0.5 0.25
25,conv_first,0.9 0.5 0 0
30,conv_first,0.8 0 0 0
"""

PLAN = {
    "name": "edsr_x4",
    "groups": [
        {
            "name": "input",
            "width": 3,
            "min_width": 3,
            "members": ["input", "conv_last"],
            "reason": "input of the network",
        },
        {
            "name": "conv_first",
            "width": 64,
            "min_width": 8,
            "members": ["conv_first", "b.1", "b.2", "b.3", "b.<4>"],
            "reason": "",
            "cost_shares": {"macs": 0.743, "params": 0.757},
        },
    ],
}


def png(size, seed):
    """A square PNG file of noise, which does not compress."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def add_images(run, count=2, size=32, seed=0):
    """Write `images/` as a run does; `seed` changes what the models restored, not the inputs."""
    entries = []
    for number in range(count):
        versions = []
        for index, name in enumerate(("input", "bicubic", "dense", "pruned", "truth")):
            path = run / "images" / str(number) / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            model_seed = 100 * seed if name in ("dense", "pruned") else 0
            width = size // 4 if name == "input" else size
            path.write_bytes(png(width, model_seed + 10 * number + index))
            psnr_db = None if name in ("input", "truth") else 30.0 + index + number / 8
            file = f"{number}/{name}.png"
            versions.append({"name": name, "file": file, "psnr_db": psnr_db})
        entry = {"set": "Set5", "key": f"bird{number}", "scale": 4, "crop": [0, 4, size, size]}
        entries.append({**entry, "size": [64, 64], "versions": versions})
    (run / "images" / "index.json").write_text(json.dumps({"pictures": entries}))


@pytest.fixture
def whole(folder, metrics):
    """Folder of a finished run with all files, and a name that is markup."""
    metrics = {**metrics, "name": NAME, "macs_input": [1, 3, 128, 128]}
    environment = {"torch": "2.13.0", "command": "train.py <b>"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "options.yml").write_text(OPTIONS)
    (folder / "latents.csv").write_text(LATENTS)
    (folder / "plan.json").write_text(json.dumps(PLAN))
    (folder / "environment.json").write_text(json.dumps(environment))
    add_images(folder)
    return folder
