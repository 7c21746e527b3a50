"""One description of a network: the same from the class, from its file, and for its runner."""

import pytest
import torch
from third_party import third_party_info
from torch import nn

from dhp_sr.archs import build
from dhp_sr.deploy import SizeRequirements, load_model, save_model
from dhp_sr.deploy.model_info import SIZE_MULTIPLES, attach_info, info_of, trial_side
from dhp_sr.deploy.runner import Runner, with_tiles
from dhp_sr.deploy.runtimes import RUNTIMES, default_runtime, open_runner
from dhp_sr.utils.devices import RUNTIME_NAMES
from dhp_sr.utils.errors import UserError

from .conftest import CUTS, cut_network


@pytest.mark.parametrize("name", CUTS)
def test_a_file_gives_the_description_of_the_network(name, tmp_path):
    network = cut_network(name)
    info = info_of(network)
    side = info.example_side
    x = torch.rand(1, info.in_channels, side, side)
    assert network(x).shape[1] == info.out_channels and info.package == "dhp_sr"
    save_model(network, tmp_path / "m.safetensors", parent="dense.pth", licence="MIT")
    loaded = info_of(load_model(tmp_path / "m.safetensors"))
    assert (loaded.parent, loaded.license) == ("dense.pth", "MIT")
    own = ("architecture", "arguments", "task", "scale", "in_channels", "out_channels")
    for name in (*own, "sizes", "input_size", "value_range"):
        assert getattr(loaded, name) == getattr(info, name), name


def test_the_runner_carries_it_with_its_tiles(tmp_path):
    network = cut_network("EDSR")
    save_model(network, tmp_path / "m.safetensors")
    runner = open_runner(tmp_path / "m.safetensors", "torch", threads=1)
    assert runner.info == with_tiles(info_of(load_model(tmp_path / "m.safetensors")), network)
    assert runner.tiles.halo == 8 and runner.tiles.reason == ""
    assert isinstance(runner, Runner) and runner.runtime == "torch"


def test_runtimes_are_chosen_by_suffix_and_name(tmp_path):
    assert default_runtime("a/B.ONNX") == "onnxruntime"
    assert default_runtime("m.safetensors") == default_runtime("m") == "torch"
    assert default_runtime("m.xml") == "openvino"
    with pytest.raises(UserError, match=r"torch.*'tensorflow'"):
        open_runner(tmp_path / "m.onnx", "tensorflow")
    for name in ("torch", "torch.compile"):
        with pytest.raises(UserError, match=r"m\.onnx: .*onnxruntime"):
            open_runner(tmp_path / "m.onnx", name)
    assert set(RUNTIME_NAMES) == set(RUNTIMES)


def test_third_party_networks_get_the_attributes_of_our_own():
    network = nn.Conv2d(3, 12, 1)
    info = third_party_info("a:B", {"x": 1}, scale=2, size_multiple=4, smallest_side=10)
    attach_info(network, info)
    assert (network.scale, network.size_multiple, network.in_channels) == (2, 4, 3)
    assert info.example_side == 12 and info.package == "a"
    assert not hasattr(network, "input_size")
    attach_info(network, third_party_info("a:B", {}, task="classification", smallest_side=10))
    assert network.input_size == 10


def test_sizes():
    sizes = SizeRequirements(multiple=4, minimum=10, maximum=20)
    assert [sizes.round_up(side) for side in (1, 12, 13)] == [12, 12, 16]
    sizes.check(8, 20)
    for height, width in ((9, 8), (8, 10), (24, 8)):
        with pytest.raises(UserError, match=f"{height} x {width}"):
            sizes.check(height, width)


def test_trial_sides_need_no_larger_multiple():
    for multiple in SIZE_MULTIPLES:
        side = trial_side(multiple)
        assert side >= 16 and side % multiple == 0 and side % (2 * multiple)


def test_classifiers_have_no_tiles():
    network = build("ResNet", num_feat=4, depth=8, input_size=16).eval()
    info = with_tiles(info_of(network), network)
    assert info.tiles is None and not info.restores_images and info.out_channels == 10
