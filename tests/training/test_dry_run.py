"""What would end a run late is found before it begins."""

import pytest
import torch
from runs import run
from tiny_runs import save_images
from torch import Tensor, nn

from dhp_sr.config import load_options
from dhp_sr.training.driver import train
from dhp_sr.training.dry_run import try_image_sizes, try_training_step, uneven_mask
from dhp_sr.utils.errors import UserError


class Auxiliary(nn.Module):
    """Returns the output of an auxiliary head beside its own in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor):
        features = self.body(x)
        output = self.head(features)
        return (output, features) if self.training else output


class BranchOnSize(nn.Module):
    """Runs on images of up to 40 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[2] <= 40, "more than 40 rows")
        return self.body(x)


class NoShapeRule(BranchOnSize):
    """Reads a value, which does not exist where shapes alone are computed."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 if float(x.sum()) < 1e9 else 0)


def loss(forward, images, target):
    return (forward(images) - target).abs().mean()


def test_an_output_for_training_alone_is_named():
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(UserError, match=r"the network: .*got tuple in training mode.*auxiliary"):
        try_training_step(Auxiliary(), "the network", images, images, loss)
    network = BranchOnSize()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try_training_step(network, "the network", images, images, loss)
    assert network.body.weight.grad is None
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_step_that_fails_is_named():
    class Fails(BranchOnSize):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise KeyError("no such head")
            return super().forward(x)

    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(UserError, match=r"the network fails in a training step.*no such head"):
        try_training_step(Fails(), "the network", images, images, loss)


@pytest.mark.parametrize("kind", [BranchOnSize, NoShapeRule])
def test_every_size_of_the_test_images_is_tried(kind):
    try_image_sizes(kind(), "the network", [(3, 8, 8), (3, 40, 99)], "A")
    with pytest.raises(UserError, match=r"the network does not run on images of 41 x 8.*set A"):
        try_image_sizes(kind(), "the network", [(3, 41, 8)], "A")


class Branching(nn.Module):
    """States a width as a number, so that a cut rewrites its forward, and branches on a size of
    test images.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(self.first(x), [8, 8], 1)
        features = torch.cat((left, right) if x.shape[2] != 16 else (left, right + 0), 1)
        return nn.functional.pixel_shuffle(self.second(features), 2)


@pytest.fixture
def branching(monkeypatch):
    """`Branching` as the network of every option file."""
    monkeypatch.setattr("dhp_sr.zoo.networks.plain_type", lambda section: ("Branching", {}))
    monkeypatch.setattr("dhp_sr.tasks.base.plain_type", lambda section: ("Branching", {}))
    monkeypatch.setattr("dhp_sr.tasks.base.build_named", lambda name, arguments: Branching())
    return {"type": "Hyper", "network": {"type": "RCAN"}}


@pytest.mark.filterwarnings("ignore:network_g")
def test_a_branch_on_the_size_is_found_before_the_training(make_options, tmp_path, branching):
    options = make_options(network=branching)
    with pytest.raises(UserError, match=r"half of its channels cut does not run .*16 x 16.*set A"):
        run(options, tmp_path)
    assert not (tmp_path / "experiments").exists()


class MeetsAtOneSize(nn.Module):
    """Adds features of equal width at the size of the patches alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.other = nn.Conv2d(3, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features, other = self.first(x), self.other(x)
        if x.shape[2] == 8:
            features = features + other
        return nn.functional.pixel_shuffle(self.last(features) + other.mean(), 2)


@pytest.mark.filterwarnings("ignore:network_g")
def test_groups_that_meet_at_the_patch_size_alone_are_found(
    make_options, tmp_path, branching, monkeypatch
):
    """Cut evenly they would fit each other here, and not after the search."""
    monkeypatch.setattr("dhp_sr.tasks.base.build_named", lambda name, arguments: MeetsAtOneSize())
    with pytest.raises(UserError, match="half of its channels cut fails in a training step"):
        run(make_options(network=branching), tmp_path)
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 16, 64])
def test_masks_of_neighbors_differ(width):
    counts = [int(uneven_mask(width, number).sum()) for number in range(4)]
    assert all(1 <= count <= (width + 1) // 2 for count in counts)
    assert width < 6 or counts[0] != counts[1]
    assert width < 3 or min(counts) >= 2


class StackedInTraining(BranchOnSize):
    """Gives two outputs in a single tensor in training; a loss would broadcast the target."""

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        return torch.stack([output, output]) if self.training else output


def test_another_shape_in_training_is_named():
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(UserError, match=r"the network: .*\(2, 2, 3, 8, 8\) in training mode"):
        try_training_step(StackedInTraining(), "the network", images, images, loss)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_computed_weights_are_explained(make_options, tmp_path, branching, monkeypatch):
    """As torch's old weight_norm makes them; they cannot be copied."""

    def build(name, arguments):
        network = Branching()
        nn.utils.weight_norm(network.first)
        return network

    monkeypatch.setattr("dhp_sr.tasks.base.build_named", build)
    with pytest.raises(UserError, match=r"Branching cannot be copied.*remove_weight_norm"):
        run(make_options(network=branching), tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*among the networks that model files can name:UserWarning")
@pytest.mark.filterwarnings("ignore:.*are among those of datasets.train:UserWarning")
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_of_torchvision(tmp_path, name):
    side = {"googlenet": 64, "inception_v3": 299}[name]  # what the heads need
    for part in ("train", "val"):
        for label in ("a", "b"):
            save_images(tmp_path / part / label, 2, side)
    data = {"type": "ClassificationDataset", "size": side}
    path = tmp_path / "options.yml"
    import yaml

    options = {
        "name": "auxiliary",
        "model_type": "DHPClassificationModel",
        "num_gpu": 0,
        "network_g": {
            "type": "Hyper",
            "network": {"type": f"torchvision:{name}", "num_classes": 2, "init_weights": False},
        },
        "datasets": {
            "train": {**data, "dataroot": str(tmp_path / "train"), "batch_size_per_gpu": 2},
            "val": {**data, "dataroot": str(tmp_path / "val")},
        },
        "path": {"experiments_root": str(tmp_path / "experiments")},
        "compress": {"target": {"macs": 0.5}, "dense_iter": 1, "search_iter": 1},
        "train": {"total_iter": 3, "optim_g": {"lr": 1e-3}},
        "val": {"val_freq": 100},
        "logger": {"use_tb_logger": False},
    }
    path.write_text(yaml.safe_dump(options))
    with pytest.raises(UserError, match=r"Outputs in training mode.*aux_logits"):
        train(load_options(path), root=tmp_path)
