"""Pruned networks of other packages come back from their files."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention import ModuleAttention
from real_networks import BASICSR, build_real
from slow_rows import rows
from third_party import third_party_info
from topologies import LiteralShuffle, SharedAndSplit, Split, conv
from torch import nn

from dhp_sr.deploy import (
    ModelFileError,
    load_model,
    model_info,
    read_manifest,
    register,
    save_model,
)
from dhp_sr.hyper import convert
from dhp_sr.surgery.rewrite import RewrittenNetwork
from dhp_sr.utils.errors import UserError
from dhp_sr.zoo.checkpoints import checkpoint_of_own
from dhp_sr.zoo.names import register_basicsr, register_torchvision

LITERAL = {
    "tests:split": lambda: Split(outputs=12, inner=conv(8, 16), outer=conv(12, 8)),
    "tests:shared": SharedAndSplit,
    "tests:attention": lambda: ModuleAttention(batch_first=True),
    "tests:shuffle": lambda: LiteralShuffle(inner=conv(8, 12), outer=conv(12, 8)),
}


@pytest.fixture(autouse=True)
def builders(monkeypatch):
    """A table of constructors of its own for every test."""
    monkeypatch.setattr(model_info, "CONSTRUCTORS", {})
    register_basicsr()
    register_torchvision()
    for name, build in LITERAL.items():
        register(name, build)


def pruned(network, x):
    hyper = convert(network.float().eval(), x).eval()
    for group in hyper.plan.prunable:
        hyper.set_masks({group.name: torch.randperm(group.width) < max(group.width // 2, 1)})
    return hyper.cut()


def basicsr_case(name):
    arguments = BASICSR[name][1]
    scale = arguments.get("upscale", arguments.get("scale", {"RCAN": 4}.get(name, 1)))
    multiple = 2 if name == "RRDBNet" else 1
    return third_party_info(f"basicsr:{name}", arguments, scale=scale, size_multiple=multiple)


def classifier_case(name):
    return third_party_info(
        f"torchvision:{name}", {"num_classes": 10}, task="classification", smallest_side=64
    )


def assert_same_again(small, info, x, path):
    with torch.no_grad():
        expected = small(x)
        save_model(small, path, info=info)
        loaded = load_model(path)
        assert torch.equal(loaded(x), expected)
    assert type(loaded).__name__ == type(small).__name__ and not loaded.training
    assert isinstance(loaded, RewrittenNetwork) == isinstance(small, RewrittenNetwork)
    save_model(loaded, path.with_name("again.safetensors"))
    assert path.with_name("again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", rows(BASICSR, ["RRDBNet", "RCAN"]))
def test_networks_of_basicsr(tmp_path, name):
    x = torch.rand(1, 3, 16, 16)
    small = pruned(build_real(name), x)
    assert_same_again(small, basicsr_case(name), x, tmp_path / "model.safetensors")
    assert read_manifest(tmp_path / "model.safetensors")["architecture"] == f"basicsr:{name}"


@pytest.mark.parametrize(
    "name",
    rows(["resnet18", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5"], ["resnet18"]),
)
def test_classifiers_of_torchvision(tmp_path, name):
    x = torch.rand(1, 3, 64, 64)
    assert_same_again(
        pruned(build_real(name), x), classifier_case(name), x, tmp_path / "model.safetensors"
    )


@pytest.mark.parametrize("name", LITERAL)
def test_rewritten_forwards(tmp_path, name):
    x = torch.rand(2, 2, 8, 8)
    small = pruned(LITERAL[name](), x)
    assert isinstance(small, RewrittenNetwork)
    assert_same_again(
        small,
        third_party_info(name, {}, task="denoise", in_channels=2),
        x,
        tmp_path / "model.safetensors",
    )
    with pytest.raises(UserError, match="cannot be pruned again"):
        checkpoint_of_own(load_model(tmp_path / "model.safetensors"))


@pytest.mark.slow
def test_a_fresh_process_loads_the_same_network(tmp_path):
    x = torch.rand(1, 3, 16, 16)
    small = pruned(build_real("RCAN"), x)
    save_model(small, tmp_path / "model.safetensors", info=basicsr_case("RCAN"))
    torch.save({"x": x, "y": small(x).detach()}, tmp_path / "pair.pth")
    code = (
        "import torch; from dhp_sr.deploy import load_model;"
        "from dhp_sr.zoo.names import register_basicsr;"
        "torch.set_num_threads(1); register_basicsr();"
        "pair = torch.load('pair.pth', weights_only=True);"
        "network = load_model('model.safetensors');"
        "assert torch.equal(network(pair['x']), pair['y'])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_what_is_not_registered_is_not_loaded(tmp_path, monkeypatch):
    small = pruned(build_real("SRVGGNetCompact"), torch.rand(1, 3, 16, 16))
    save_model(small, tmp_path / "model.safetensors", info=basicsr_case("SRVGGNetCompact"))
    monkeypatch.setattr(model_info, "CONSTRUCTORS", {})
    with pytest.raises(
        ModelFileError, match=r"'basicsr:SRVGGNetCompact' .*not registered .*register_basicsr\(\)"
    ):
        load_model(tmp_path / "model.safetensors")
    assert (
        read_manifest(tmp_path / "model.safetensors")["architecture"] == "basicsr:SRVGGNetCompact"
    )
    register("basicsr:RCAN", lambda: None)
    with pytest.raises(ModelFileError, match="known: basicsr:RCAN"):
        load_model(tmp_path / "model.safetensors")


def test_a_network_without_its_origin_is_not_saved(tmp_path):
    small = pruned(build_real("SRVGGNetCompact"), torch.rand(1, 3, 16, 16))
    with pytest.raises(UserError, match=r"got .*SRVGGNetCompact; give save_model its `info`"):
        save_model(small, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not saved, since it could not be loaded again"):
        save_model(
            small,
            tmp_path / "model.safetensors",
            info=third_party_info("basicsr:SRVGGNetCompact", {"num_feat": 24}),
        )
    assert not list(tmp_path.iterdir())


def test_numbers_of_a_file_are_checked(tmp_path, spoil):
    x = torch.rand(1, 2, 8, 8)
    small = pruned(LITERAL["tests:split"](), x)
    save_model(
        small,
        tmp_path / "a.safetensors",
        info=third_party_info("tests:split", {}, task="denoise", in_channels=2),
    )
    stated = list(small.sizes.values())
    for wrong in (
        [*stated[:-1], [99, 2]],
        stated[:-1],
        [*stated[:-1], ["1", 2]],
        [*stated[:-1], [1]],
        None,
    ):
        forward = {"stated": wrong, "example_shape": [1, 2, 8, 8]}
        with pytest.raises(ModelFileError, match="the forward cannot be rewritten as stated"):
            load_model(spoil(tmp_path / "a.safetensors", manifest={"forward": forward}))
    forward = {"stated": stated, "example_shape": [1, 2, 2**20, 2**20]}
    with pytest.raises(ModelFileError, match="example_shape"):
        load_model(spoil(tmp_path / "a.safetensors", manifest={"forward": forward}))


class TwoNumbers(nn.Module):
    """States the widths of two layers in its forward."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = conv(2, 8), conv(8, 12), conv(12, 2)

    def forward(self, x):
        batch, _, height, width = x.shape
        x = self.first(x).flatten(2).view(batch, 8, height, width)
        return self.last(self.second(x).flatten(2).view(batch, 12, height, width))


def test_a_network_whose_layers_are_excluded_in_part_is_loaded_again(tmp_path, spoil):
    """Whoever loads it knows nothing of `exclude`, and finds more numbers than the file states."""
    register("tests:numbers", TwoNumbers)
    x = torch.rand(1, 2, 8, 8)
    hyper = convert(TwoNumbers().eval(), x, exclude=("first",)).eval()
    hyper.set_masks({"second": torch.arange(12) < 7})
    small = hyper.cut()
    assert isinstance(small, RewrittenNetwork) and list(small.sizes.values()) == [7]
    info = third_party_info("tests:numbers", {}, task="denoise", in_channels=2)
    save_model(small, tmp_path / "a.safetensors", info=info)
    assert torch.equal(load_model(tmp_path / "a.safetensors")(x), small(x))
    forward = {"stated": [7], "numbers": ["view_9.args.0"], "example_shape": [1, 2, 8, 8]}
    with pytest.raises(ModelFileError, match="no such number"):
        load_model(spoil(tmp_path / "a.safetensors", manifest={"forward": forward}))


def test_names_have_two_parts():
    with pytest.raises(UserError, match="expected a name such as"):
        register("RCAN", build_real)
