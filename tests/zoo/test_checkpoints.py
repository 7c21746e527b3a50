"""Checkpoints of other projects: which network they are, wrappers, value ranges."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dhp_sr.archs import build
from dhp_sr.basicsr_adapter.shim import prepare_torchvision
from dhp_sr.deploy import load_into, load_weights, save_model
from dhp_sr.tasks import task_named
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo import checkpoints
from dhp_sr.zoo.checkpoints import open_checkpoint
from dhp_sr.zoo.names import FILE, build_named
from dhp_sr.zoo.own_classes import own_candidates
from dhp_sr.zoo.spandrel_networks import Detected
from dhp_sr.zoo.value_range import DIV2K_MEAN, RangeAdapter, ValueRange, find_value_range

NETWORKS = [
    ("DnCNN", {"num_feat": 6, "num_layers": 4, "batch_norm": True, "num_in_ch": 3}),
    ("DnCNN", {"num_feat": 6, "num_layers": 5, "batch_norm": False, "num_in_ch": 1}),
    ("RLFN", {"num_feat": 6, "num_block": 2, "esa_feat": 3, "upscale": 3}),
    ("EDSR", {"num_feat": 6, "num_block": 3, "upscale": 4}),
]
WRAPPERS = [
    lambda state: state,
    lambda state: {"params_ema": state},
    lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    lambda state: {
        "state_dict": {
            **{f"generator.{key}": value for key, value in state.items()},
            "discriminator.weight": torch.zeros(3),
        }
    },
    lambda state: {
        "n_averaged": torch.tensor(3),
        **{f"module.{key}": value for key, value in state.items()},
    },
    lambda state: {"state_dict": state, "state_dict_ema": state, "epoch": 1},
    lambda state: {
        **{f"generator.{key}": value + 1 for key, value in state.items()},
        **{f"generator_ema.{key}": value for key, value in state.items()},
    },
    lambda state: {f"my_network.{key}": value for key, value in state.items()},
]


@pytest.mark.parametrize("name, arguments", NETWORKS)
def test_our_classes_are_found_by_their_shapes(tmp_path, name, arguments):
    network = build(name, **arguments).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = open_checkpoint(tmp_path / "w.pth")
    assert found.name == name and found.arguments == network.arguments
    x = torch.rand(1, network.in_channels, 20, 16)
    assert torch.equal(found.network(x), network(x))


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrappers_of_training_programs_are_taken_away(tmp_path, wrap):
    network = build("DnCNN", num_feat=6, num_layers=4, batch_norm=False).eval()
    torch.save(wrap(network.state_dict()), tmp_path / "w.ckpt")
    found = open_checkpoint(tmp_path / "w.ckpt")
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(found.network(x), network(x))


@pytest.mark.parametrize("arch", [None, "DnCNN"])
def test_weights_that_are_no_numbers_are_refused(tmp_path, arch):
    network = build("DnCNN", num_feat=6, num_layers=4, batch_norm=False)
    network.state_dict()["model.0.weight"].fill_(float("nan"))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    arguments = ["num_feat=6", "num_layers=4", "batch_norm=false"] if arch else []
    with pytest.raises(UserError, match=r"w\.pth.*NaN"):
        open_checkpoint(tmp_path / "w.pth", arch, arguments)


def test_several_networks_in_a_file_are_named(tmp_path):
    prepare_torchvision()
    pytest.importorskip("spandrel")
    network = build("DnCNN", num_feat=6, num_layers=4, batch_norm=False)
    wrapped = {}
    for prefix in ("left", "right"):
        wrapped |= {f"{prefix}.{key}": value for key, value in network.state_dict().items()}
    torch.save(wrapped, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"left\., right\."):
        open_checkpoint(tmp_path / "w.pth")


def test_model_files_dense_and_pruned(tmp_path):
    network = build("DnCNN", num_feat=8, num_layers=4, batch_norm=False)
    save_model(network, tmp_path / "dense.safetensors")
    assert open_checkpoint(tmp_path / "dense.safetensors").arguments == network.arguments
    from dhp_sr.hyper import convert

    hyper = convert(network, torch.zeros(1, 1, 16, 16))
    hyper.prune_to(macs=0.5, round_to=1, tolerance=0.1)
    save_model(hyper.cut(), tmp_path / "pruned.safetensors")
    pruned = open_checkpoint(tmp_path / "pruned.safetensors")
    # No constructor makes it: whoever builds it again gives a path.
    assert pruned.name == FILE and not pruned.arguments and "pruned DnCNN" in pruned.notes[0]
    again = build_named(f"{FILE}{tmp_path / 'pruned.safetensors'}", {})
    assert all(torch.equal(again.state_dict()[key], value)
               for key, value in pruned.network.state_dict().items())  # fmt: skip
    assert all(parameter.requires_grad for parameter in again.parameters())
    with pytest.raises(UserError, match="num_feat"):
        build_named(f"{FILE}{tmp_path / 'pruned.safetensors'}", {"num_feat": 8})


def test_several_architectures_that_fit_are_named(tmp_path, monkeypatch):
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "w.pth")
    first = Detected("spandrel:One.A", {}, "One", 2, 3, 3, 1, nn.Identity())
    second = replace(first, name="spandrel:Two.B", title="Two")
    monkeypatch.setattr(checkpoints, "detect_networks", lambda *_: ([first, second], []))
    with pytest.raises(UserError, match=r"spandrel:One or --arch spandrel:Two"):
        open_checkpoint(tmp_path / "w.pth")


def test_keys_like_those_of_our_class_do_not_end_the_search(tmp_path):
    """A DnCNN has two convolutions at least; these may be the weights of another network."""
    weights = {"model.0.weight": torch.zeros(4, 3, 3, 3), "model.0.bias": torch.zeros(4)}
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(UserError, match="none of the known architectures"):
        open_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "shapes",
    [
        {"conv_after_body.weight": (4, 4, 3, 3), "conv_last.weight": (3, 4, 3, 3)},
        {"conv_1.weight": (4,), "block_1.c1_r.weight": (4, 4, 3, 3)},
        {"conv_first.weight": (0, 3, 3, 3), "conv_after_body.weight": (0, 0, 3, 3)},
    ],
)
def test_some_keys_of_our_classes_are_no_candidates(shapes):
    weights = {key: torch.zeros(shape) for key, shape in shapes.items()}
    weights.setdefault("conv_last.weight", torch.zeros(3, 4, 3, 3))
    assert list(own_candidates(weights)) == []


def test_what_nothing_knows_is_refused(tmp_path):
    prepare_torchvision()
    pytest.importorskip("spandrel")
    torch.save({"mystery.weight": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"mystery\.weight"):
        open_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "change, fact",
    [
        (lambda state: state.pop("model.2.bias"), "missing: model.2.bias"),
        (lambda state: state.update(extra=torch.zeros(2)), "unexpected: extra"),
    ],
)
def test_how_weights_differ_from_those_of_our_class_is_said(tmp_path, change, fact):
    pytest.importorskip("spandrel")
    state = build("DnCNN", num_feat=6, num_layers=4, batch_norm=False).state_dict()
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"do not fit DnCNN:\n *{fact}"):
        open_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "expected", [ValueRange(), ValueRange(255.0), ValueRange(255.0, DIV2K_MEAN)]
)
def test_value_ranges_are_found_by_trial(expected):
    class Expects(nn.Module):
        """The identity on images of one range, nonsense on those of others."""

        def forward(self, x):
            shift = torch.tensor(expected.shift).view(1, -1, 1, 1)
            image = x / expected.scale + shift
            distance = (image.mean(dim=(1, 2, 3), keepdim=True) - 0.45).abs()
            return x + expected.scale * (distance > 0.1) + 0.002 * expected.scale * torch.sin(image)

    images = [0.4 + 0.1 * torch.rand(3, 8, 8) for _ in range(2)]
    found, _ = find_value_range(Expects(), images, 1, 3)
    assert found.scale == expected.scale


def test_an_adapted_network_takes_images_of_the_usual_range():
    network = nn.Conv2d(3, 3, 3, padding=1)
    adapted = RangeAdapter(network, 255.0, DIV2K_MEAN)
    x = torch.rand(1, 3, 8, 8)
    mean = torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1)
    assert torch.allclose(adapted(x), network((x - mean) * 255) / 255 + mean, atol=1e-6)


@pytest.mark.data
def test_the_published_rlfn_scores_as_published(shared_weights, shared_data):
    network = build("RLFN").eval()
    load_into(network, load_weights(shared_weights / "rlfn_x4.pth"))
    settings = {"sigma": None, "max_images": None, "crop_border": None}
    sets = task_named("sr").open_folders(
        network, {"Set5": str(shared_data / "Set5" / "HR")}, settings
    )
    scores = task_named("sr").evaluate(network, sets[0])
    assert scores["psnr_y_db"] == pytest.approx(32.238, abs=0.0015)
