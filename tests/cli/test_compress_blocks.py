"""Fewer blocks: numbered anew, chosen by what the output loses, loaded by the plain class."""

import pytest
import torch
from plain_spandrel import run_in_plain_spandrel

from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.cli.compress_blocks import BLOCK_COUNTS, BlockCount, FewerBlocks, renumbered
from dhp_sr.cli.compress_request import Target
from dhp_sr.cli.compress_shapes import counts_to_try
from dhp_sr.deploy import ModelInfo
from dhp_sr.deploy.model_info import attach_info
from dhp_sr.hyper import convert
from dhp_sr.zoo.checkpoints import Checkpoint
from dhp_sr.zoo.names import build_named

NETWORKS = {
    "EDSR": {"num_feat": 8, "num_block": 3, "upscale": 2},
    "RLFN": {"num_feat": 8, "num_block": 3, "upscale": 2},
    "spandrel:ESRGAN.RRDBNet": {"num_filters": 8, "num_blocks": 3, "scale": 1},
    "spandrel:PLKSR.PLKSR": {"dim": 8, "n_blocks": 3, "upscaling_factor": 2},
    "spandrel:PLKSR.RealPLKSR": {"dim": 8, "n_blocks": 3, "upscaling_factor": 2},
    "spandrel:RCAN.RCAN": {
        "scale": 2,
        "n_resgroups": 3,
        "n_resblocks": 1,
        "n_feats": 8,
        "reduction": 4,
        "norm": False,
    },
    "spandrel:SAFMN.SAFMN": {"dim": 8, "n_blocks": 3, "upscaling_factor": 2},
}


@pytest.fixture(params=NETWORKS)
def checkpoint(request):
    return opened(request.param)


def opened(name):
    prepare_torchvision()
    if name.startswith("spandrel"):
        pytest.importorskip("spandrel")
    torch.manual_seed(0)
    network = build_named(name, NETWORKS[name]).eval()
    if name.startswith("spandrel"):
        attach_info(network, ModelInfo(name, NETWORKS[name], task="sr", scale=network_scale(name)))
    return Checkpoint(network, name, NETWORKS[name], name)


def network_scale(name):
    arguments = NETWORKS[name]
    return arguments.get("upscaling_factor") or arguments.get("scale") or arguments["upscale"]


def blocks_of(checkpoint, **options):
    hyper = convert(checkpoint.network, torch.rand(1, 3, 24, 24))
    images = [torch.rand(2, 3, 24, 24) for _ in range(2)]
    return FewerBlocks(checkpoint, hyper, images[:1], images[1:], **options)


def test_keys_are_numbered_without_gaps_and_what_follows_moves_up():
    keys = ["a.0.weight", "body.0.x", "body.1.x", "body.2.x", "body.3.bias", "body_2.0.x"]
    state = {key: torch.tensor(number) for number, key in enumerate(keys)}
    result = renumbered(state, BlockCount("n", "body."), 3, {1})
    assert {key: int(value) for key, value in result.items()} == {
        "a.0.weight": 0, "body.0.x": 1, "body.1.x": 3, "body.2.bias": 4, "body_2.0.x": 5,
    }  # fmt: skip
    state = {"block_1.x": torch.tensor(1), "block_2.x": torch.tensor(2)}
    result = renumbered(state, BlockCount("n", "block_", first=1), 2, {0})
    assert {key: int(value) for key, value in result.items()} == {"block_1.x": 2}


def test_the_class_with_a_smaller_count_takes_the_weights(checkpoint):
    blocks = BLOCK_COUNTS[checkpoint.name]
    shortened, left_out = blocks_of(checkpoint, seconds=0).with_count(1)
    assert len(left_out) == 2
    assert shortened.arguments[blocks.argument] == 1
    fresh = build_named(checkpoint.name, shortened.arguments)
    fresh.load_state_dict(shortened.network.state_dict())
    x = torch.rand(1, 3, 24, 24)
    # RCAN writes into its input.
    assert torch.equal(fresh.eval()(x.clone()), shortened.network(x.clone()))


def test_a_block_that_does_nothing_goes_first_and_changes_nothing():
    checkpoint = opened("spandrel:SAFMN.SAFMN")
    block = checkpoint.network.feats[1]
    for layer in (block.safm.aggr, block.ccm.ccm[2]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    shortened, left_out = blocks_of(checkpoint).with_count(2)
    assert left_out == (1,)
    x = torch.rand(1, 3, 24, 24)
    assert torch.equal(shortened.network(x), checkpoint.network(x))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if "ESRGAN" in name else ()) for name in NETWORKS],
)
def test_the_correction_brings_the_output_closer(name):
    checkpoint = opened(name)
    fewer = blocks_of(checkpoint)
    shortened, left_out = fewer.with_count(2)
    first = BLOCK_COUNTS[checkpoint.name].first
    numbers = {number - first for number in left_out}
    arguments = shortened.arguments
    plain = build_named(checkpoint.name, arguments).eval()
    blocks = BLOCK_COUNTS[checkpoint.name]
    plain.load_state_dict(renumbered(checkpoint.network.state_dict(), blocks, 3, numbers))
    assert fewer.psnr_db(shortened.network) > fewer.psnr_db(plain) + 3


@pytest.mark.parametrize("ratio, fewest", [(0.9, 2), (0.5, 1)])
def test_counts_are_those_between_the_original_and_full_width(ratio, fewest):
    checkpoint = opened("RLFN")
    dense = convert(checkpoint.network, torch.zeros(1, 3, 128, 128)).dense_cost().macs
    counts = counts_to_try(checkpoint, dense, Target("macs", ratio))
    assert (max(counts), min(counts)) == (3, fewest)
    assert len(set(counts)) == len(counts)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("spandrel:")])
def test_plain_spandrel_reads_the_count_of_a_network(tmp_path, name):
    checkpoint = opened(name)
    shortened, _ = blocks_of(checkpoint, seconds=0).with_count(1)
    torch.save(shortened.network.state_dict(), tmp_path / "fewer.pth")
    x = torch.rand(1, 3, 16, 16)
    loaded_as, result = run_in_plain_spandrel(tmp_path / "fewer.pth", x, tmp_path)
    assert loaded_as == name.removeprefix("spandrel:").partition(".")[0]
    assert torch.allclose(result, shortened.network(x.clone()), atol=1e-5)
