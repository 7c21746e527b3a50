"""Small networks and the ONNX files made from them, once in a session: an export takes seconds."""

from pathlib import Path

from dhp_sr.archs import build

SMALL = {
    "EDSR": {"num_feat": 5, "num_block": 1, "upscale": 3},
    "SRResNet": {"num_feat": 4, "num_block": 1, "upscale": 2},
    "DnCNN": {"num_feat": 4, "num_layers": 4},
    "UNet": {"num_feat": 4, "num_levels": 3},
    "RLFN": {"num_feat": 4, "num_block": 1, "esa_feat": 2, "upscale": 2},
}


class Exports:
    """Networks by name, each with its file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, {}

    def __getitem__(self, name):
        if name not in self.made:
            from dhp_sr.deploy.onnx_export import export_onnx

            network, path = build(name, **SMALL[name]).eval(), self.folder / f"{name}.onnx"
            example = (1, network.in_channels, 16, 16)
            export_onnx(network, path, example)
            self.made[name] = network, path
        return self.made[name]
