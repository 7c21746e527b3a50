"""Small networks and the ONNX files made from them, once in a session: an export takes seconds."""

import fcntl
from pathlib import Path

import torch

from dhp_sr.archs import build

SMALL = {
    "EDSR": {"num_feat": 5, "num_block": 1, "upscale": 3},
    "SRResNet": {"num_feat": 4, "num_block": 1, "upscale": 2},
    "DnCNN": {"num_feat": 4, "num_layers": 4},
    "UNet": {"num_feat": 4, "num_levels": 3},
    "RLFN": {"num_feat": 4, "num_block": 1, "esa_feat": 2, "upscale": 2},
}


class Exports:
    """Networks by name, each with its file.

    Args:
        folder: Shared by all test processes: whoever needs a file first makes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, {}

    def __getitem__(self, name):
        if name not in self.made:
            from dhp_sr.deploy.onnx_export import export_onnx

            # The same weights in every process.
            with torch.random.fork_rng():
                torch.manual_seed(0)
                network = build(name, **SMALL[name]).eval()
            path = self.folder / f"{name}.onnx"
            with open(self.folder / f"{name}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    export_onnx(network, path, (1, network.in_channels, 16, 16))
            self.made[name] = network, path
        return self.made[name]
