"""Names and metadata of exported files."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import save_images
from torch import nn

from dhp_sr.archs import build
from dhp_sr.cli.calibration import calibration_images
from dhp_sr.cli.export import Exported, describe_facts, export_text, output_path
from dhp_sr.cli.export_formats import ExportOptions
from dhp_sr.deploy import SizeRequirements
from dhp_sr.deploy.model_info import ModelInfo, attach_info, info_of
from dhp_sr.deploy.onnx_metadata import pack_metadata, unpack_metadata
from dhp_sr.deploy.verify import Agreement
from dhp_sr.metrics import complexity
from dhp_sr.utils.errors import UserError


@pytest.mark.parametrize(
    ("name", "arguments", "side"),
    [
        ("ResNet", {"depth": 8, "input_size": 24}, 24),
        ("UNet", {"num_feat": 4, "num_levels": 3}, 128),
    ],
)
def test_costs_are_stated_for_the_size_that_the_network_is_meant_for(name, arguments, side):
    network = build(name, **arguments).eval()
    found = unpack_metadata(pack_metadata(describe_facts(network, {})))
    assert found["macs_input"] == [1, network.in_channels, side, side]
    assert found["macs"] == complexity(network, found["macs_input"]).macs
    assert found.get("input_size") == getattr(network, "input_size", None)
    assert found["out_channels"] == getattr(network, "num_classes", network.in_channels)


@pytest.mark.parametrize("name, file_format", [("net.onnx", "onnx"), ("net.bin", "openvino")])
def test_no_file_of_an_export_replaces_the_model(tmp_path, name, file_format):
    model = tmp_path / name
    model.write_bytes(b"weights")
    with pytest.raises(UserError, match=f"{name}: would replace "):
        output_path(model, file_format, None, "")
    assert output_path(model, file_format, None, "_int8").stem == "net_int8"


def test_images_that_are_too_small_for_the_network_calibrate_nothing(tmp_path):
    save_images(tmp_path / "small", 2, 24)
    save_images(tmp_path / "mixed", 2, 24)
    save_images(tmp_path / "large", 1, 72)
    (tmp_path / "large" / "0.png").rename(tmp_path / "mixed" / "large.png")
    network = build("DnCNN", num_feat=8, num_layers=3).eval()
    info = replace(info_of(network), sizes=SizeRequirements(multiple=64))
    attach_info(network, info)
    with pytest.raises(UserError, match="64 pixels"):
        calibration_images(network, tmp_path / "small", 25.0)
    (image,) = calibration_images(network, tmp_path / "mixed", 25.0)
    assert image.lq.shape == image.gt.shape == (1, 1, 64, 64)


class Mirrored(nn.Module):
    """Refuses sides of 12 pixels and less, as reflection does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 5, padding=12, dilation=6, padding_mode="reflect")

    def forward(self, x):
        return self.conv(x)


def mirrored():
    return attach_info(
        Mirrored().eval(), ModelInfo("tests:Mirrored", task="denoise", in_channels=1)
    )


def test_images_that_do_not_pass_calibrate_nothing(tmp_path):
    save_images(tmp_path / "small", 1, 12)
    save_images(tmp_path / "mixed", 1, 12)
    save_images(tmp_path / "large", 1, 16)
    with pytest.raises(UserError, match="13 pixels"):
        calibration_images(mirrored(), tmp_path / "small", 25.0)
    (tmp_path / "large" / "0.png").rename(tmp_path / "mixed" / "large.png")
    (image,) = calibration_images(mirrored(), tmp_path / "mixed", 25.0)
    assert image.lq.shape[2:] == (16, 16)


def test_least_sides_are_stated():
    network = mirrored()
    facts = describe_facts(network, {"macs": 1})
    assert facts["smallest_side"] == 13
    agreement = Agreement({(1, 1, 16, 16): 0.0}, 1e-4)
    text = export_text(Exported(Path(__file__), facts, "ONNX", agreement))
    assert "any height and width, at least 13" in text
    options = ExportOptions(int8=True).int8_options(network)
    assert (options.size_multiple, options.least_side) == (1, 13)


def test_weights_that_no_export_wrote_stay(tmp_path):
    (tmp_path / "net.bin").write_bytes(b"of somebody else")
    with pytest.raises(UserError, match=r"net\.bin"):
        output_path(tmp_path / "net.safetensors", "openvino", None, "")
    # An earlier export is replaced.
    (tmp_path / "net.xml").write_bytes(b"graph")
    path = output_path(tmp_path / "net.safetensors", "openvino", None, "")
    assert path == tmp_path / "net.xml"


def test_weights_that_a_killed_export_left_are_replaced(tmp_path):
    (tmp_path / "net.bin").write_bytes(b"of an export that was killed before it named its graph")
    part = tmp_path / ".net.xml.abcdefgh.part"
    part.mkdir()
    (part / "net.xml").write_bytes(b"graph")
    assert output_path(tmp_path / "net.safetensors", "openvino", None, "").name == "net.xml"
    assert not part.exists()
