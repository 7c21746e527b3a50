"""Our files in spandrel: found among all its architectures, and the same numbers as our
own loader.
"""

import importlib
import pickle
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from third_party import third_party_info
from torch import nn

from dhp_sr.archs import build
from dhp_sr.deploy import ModelFileError, load_model, load_weights, register, save_model
from dhp_sr.deploy.safetensors_io import DESCRIPTION
from dhp_sr.hyper import convert

from .bombs import write_all
from .conftest import CUTS, cut_network
from .fuzzing import mutate

RESTORERS = [name for name in CUTS if build(name, **CUTS[name][0]).task in ("sr", "denoise")]
spandrel = None  # set below: skipped where the extra is not installed


@pytest.fixture(autouse=True, scope="module")
def _registered():
    global spandrel
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed")
    ours = importlib.import_module("dhp_sr.deploy.spandrel")
    ours.register()  # a second time
    spandrel = sys.modules["spandrel"]


@pytest.fixture
def load(tmp_path):
    def load(network, **facts):
        save_model(network, tmp_path / "model.safetensors", **facts)
        return spandrel.ModelLoader().load_from_file(tmp_path / "model.safetensors")

    return load


@pytest.mark.parametrize("name", RESTORERS)
@pytest.mark.parametrize(
    "make", [cut_network, lambda name: build(name, **CUTS[name][0]).eval()], ids=["cut", "dense"]
)
def test_every_network_gives_a_working_descriptor(load, name, make, tmp_path):
    network = make(name)
    descriptor = load(network, scores={"Set5": {"psnr_y_db": 30.0}})
    x = torch.rand(1, network.in_channels, 21, 18)
    expected = load_model(tmp_path / "model.safetensors")(x).clamp(0, 1)
    assert torch.equal(descriptor(x), expected)
    assert (descriptor.scale, descriptor.input_channels) == (network.scale, network.in_channels)
    assert descriptor.output_channels == expected.shape[1]
    assert descriptor.purpose == ("SR" if network.scale > 1 else "Restoration")
    minimum = 15 if name == "RLFN" else 0
    assert descriptor.size_requirements == spandrel.SizeRequirements(minimum)
    assert descriptor.tiling == spandrel.ModelTiling.SUPPORTED
    assert descriptor.architecture.id == "dhp_sr" and descriptor.tags[0] == name


def test_what_shapes_do_not_say_is_kept(load):
    arguments = {
        "num_in_ch": 1,
        "num_out_ch": 1,
        "rgb_mean": [0.3],
        "img_range": 2.0,
        "res_scale": 0.1,
    }
    network = build("EDSR", num_feat=4, num_block=1, upscale=3, **arguments).eval()
    x = torch.rand(1, 1, 9, 8)
    descriptor = load(network)
    assert torch.equal(descriptor(x), network(x).clamp(0, 1)) and descriptor.output_channels == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_types_of_numbers(load, dtype):
    network = cut_network("DnCNN")
    descriptor = load(network)
    x = torch.rand(1, 1, 16, 16)
    found = descriptor.to(dtype)(x.to(dtype))
    assert found.dtype == dtype and (found.float() - network(x).clamp(0, 1)).abs().max() < 0.1


def test_half_is_refused_where_values_would_overflow(load):
    network = cut_network("DnCNN")
    network.model[0].weight.data.mul_(1e6)
    descriptor = load(network)
    assert not descriptor.supports_half and load(cut_network("DnCNN")).supports_half
    with pytest.raises(spandrel.UnsupportedDtypeError):
        descriptor.half()


def test_networks_without_some_of_their_branches(load):
    plain = build("EDSR", num_feat=4, num_block=2, upscale=2).eval()
    x = torch.rand(1, 3, 12, 12)
    hyper = convert(plain, x).eval()
    branch = hyper.plan.branches[0]
    hyper.set_masks({name: torch.zeros_like(hyper.masks[name]) for name in branch.groups})
    small = hyper.cut()
    assert torch.equal(load(small)(x), small(x).clamp(0, 1))


class TwoResults(nn.Module):
    """A layer of two results, the second of integers, behind a window of 40."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.pool = nn.MaxPool2d(40, stride=1, return_indices=True)

    def forward(self, x):
        return self.layer(x) + self.pool(x)[0].mean((2, 3), keepdim=True)


def test_layers_of_several_results_and_large_images(load):
    register("tests:TwoResults", TwoResults)
    info = third_party_info("tests:TwoResults", {}, task="denoise", smallest_side=45)
    descriptor = load(TwoResults().eval(), info=info)
    assert descriptor.supports_half and descriptor.size_requirements.minimum == 45


def test_tensors_alone_are_enough(tmp_path, network):
    save_model(network, tmp_path / "model.safetensors", macs=1, macs_input=[1, 3, 8, 8])
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors, tmp_path / "bare.safetensors")  # a program that drops the metadata
    descriptor = spandrel.ModelLoader().load_from_file(tmp_path / "bare.safetensors")
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(descriptor(x), network(x).clamp(0, 1))
    assert (
        set(load_weights(tmp_path / "bare.safetensors"))
        == set(tensors) - {DESCRIPTION}
        == set(network.state_dict())
    )


def test_files_of_others_are_left_to_spandrel(load):
    network = build("DnCNN", num_feat=4, batch_norm=False)  # the same names and shapes as KAIR's
    theirs = spandrel.ModelLoader().load_from_state_dict(network.state_dict())
    assert theirs.architecture is spandrel.MAIN_REGISTRY["DnCNN"].architecture
    assert load(network).architecture.id == "dhp_sr"


def test_networks_of_other_packages(load):
    class Doubler(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3, padding=1)

        def forward(self, x):
            return nn.functional.pixel_shuffle(self.conv(x), 2)

    register("tests:Doubler", Doubler)
    network, x = Doubler(12).eval(), torch.rand(1, 3, 20, 16)
    descriptor = load(
        network,
        info=third_party_info(
            "tests:Doubler", {"width": 12}, scale=2, size_multiple=2, smallest_side=7
        ),
    )
    assert torch.equal(descriptor(x), network(x).clamp(0, 1))
    assert (descriptor.size_requirements.minimum, descriptor.size_requirements.multiple_of) == (
        8,
        2,
    )


def test_classifiers_are_refused(load):
    class Flat(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).mean((2, 3))

    register("tests:Flat", Flat)
    arguments = {"in_channels": 3, "out_channels": 10, "kernel_size": 16}
    info = third_party_info("tests:Flat", arguments, task="classification", smallest_side=16)
    with pytest.raises(
        ModelFileError,
        match="classification",
    ):
        load(Flat(**arguments), info=info)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (torch.zeros(4), "torch.float32"),
        (torch.tensor(list(b"{"), dtype=torch.uint8), "not valid JSON"),
        (torch.tensor(list(b"[1]"), dtype=torch.uint8), "JSON object"),
        (
            torch.tensor(list(b'{"format": "other"}'), dtype=torch.uint8),
            "description",
        ),
    ],
)
def test_a_spoilt_description(network, description, message):
    with pytest.raises(ModelFileError, match=message):
        spandrel.ModelLoader().load_from_state_dict(
            {**network.state_dict(), DESCRIPTION: description}
        )


def test_a_changed_description_is_found(tmp_path):
    network = build("EDSR", num_feat=4, num_block=1)
    save_model(network, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    place = content.rindex(b"255.0")
    (tmp_path / "changed.safetensors").write_bytes(
        content[:place] + b"215.0" + content[place + 5 :]
    )
    with pytest.raises(ModelFileError, match="checksum"):
        spandrel.ModelLoader().load_from_file(tmp_path / "changed.safetensors")
    with pytest.raises(ModelFileError, match="checksum"):
        load_model(tmp_path / "changed.safetensors")


def test_tensors_of_another_network(tmp_path, network):
    save_model(network, tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["conv_last.bias"] = torch.zeros(7)
    with pytest.raises(ModelFileError, match=r"wrong shape: conv_last\.bias"):
        spandrel.ModelLoader().load_from_state_dict(tensors)


def test_damaged_files_end_in_spandrels_own_words(tmp_path):
    """Cut short, flipped bits, lost and added bytes: refused by what users of the loader catch, or
    what it was.
    """
    network = cut_network("EDSR")
    save_model(network, tmp_path / "model.safetensors")
    content, x, refused = (tmp_path / "model.safetensors").read_bytes(), torch.rand(1, 3, 8, 8), 0
    for seed in range(120):
        (tmp_path / "damaged.safetensors").write_bytes(mutate(content, seed))
        try:
            descriptor = spandrel.ModelLoader().load_from_file(tmp_path / "damaged.safetensors")
        except (spandrel.UnsupportedModelError, SafetensorError):
            refused += 1
        else:
            # spandrel hands on no checksum of weights: a changed weight may pass, a changed
            # network may not
            assert descriptor(x).shape == (1, 3, 16, 16)
            assert descriptor.model.arguments == network.arguments
    assert refused > 60


def test_no_file_is_run(tmp_path):
    write_all(tmp_path)
    for name in (
        "code.pth",
        "pickle.safetensors",
        "header.safetensors",
        "many.safetensors",
        "wide.safetensors",
    ):
        with pytest.raises(
            (spandrel.UnsupportedModelError, SafetensorError, pickle.UnpicklingError, RuntimeError)
        ):
            spandrel.ModelLoader().load_from_file(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_metadata_of_another_network(tmp_path):
    for name in ("EDSR", "DnCNN"):
        save_model(cut_network(name), tmp_path / f"{name}.safetensors")
    mixed = load_file(tmp_path / "EDSR.safetensors")
    mixed[DESCRIPTION] = load_file(tmp_path / "DnCNN.safetensors")[DESCRIPTION]
    save_file(mixed, tmp_path / "mixed.safetensors")
    with pytest.raises(spandrel.UnsupportedModelError, match="the tensors are not those of DnCNN"):
        spandrel.ModelLoader().load_from_file(tmp_path / "mixed.safetensors")
