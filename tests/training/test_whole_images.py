"""The teacher's outputs on whole images: patches of them, runs with them, and who is refused."""

import numpy as np
import pytest
import torch
from input_sets import input_train_set
from runs import assert_same_run, run, run_with_kills
from tiny_runs import DNCNN, EDSR

from dhp_sr.config.checks import find_mistakes
from dhp_sr.data.augment import Augmentation
from dhp_sr.data.inputs import InputTrainSet
from dhp_sr.data.paired import PairTrainSet
from dhp_sr.tasks import task_of
from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.loss import TrainingLoss
from dhp_sr.utils.errors import UserError

CPU = DistributedContext(torch.device("cpu"))


def twice(images):
    return images.repeat_interleave(2, -1).repeat_interleave(2, -2)


class Nearest(torch.nn.Module):
    """A teacher that repeats every pixel, and needs sides that are multiples of 4."""

    size_multiple = 4

    def forward(self, x):
        assert x.shape[-1] % 4 == 0 and x.shape[-2] % 4 == 0
        return twice(x)


def teach(make_options, data, folder):
    loss = TrainingLoss(make_options(compress={"distill": {"whole_images": True}}), CPU)
    loss.teacher = Nearest()
    loss.teach_whole_images(data, folder)


def pair_set():
    rng = np.random.default_rng(0)
    images = []
    for height, width in ((13, 10), (9, 18)):
        lq = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
        images.append((lq, np.zeros((3, 2 * height, 2 * width), np.uint8)))
    return PairTrainSet(
        images, ["a", "b"], scale=2, gt_size=8, augmentation=Augmentation(True, True), seed=3
    )


def input_set():
    image = np.random.default_rng(1).integers(0, 256, (1, 24, 20), dtype=np.uint8)
    small = np.full((1, 7, 7), 90, np.uint8)
    return input_train_set([image, small], side=6, scale=2, reductions=(1, 2), augment=True, seed=3)


@pytest.mark.parametrize("make", [pair_set, input_set])
def test_taught_patches_lie_where_the_input_lies(make, make_options, tmp_path):
    data = make()
    before = [data[index, position] for index in (0, 1) for position in range(8)]
    assert "taught" not in before[0]
    files = set(tmp_path.rglob("*"))
    teach(make_options, data, tmp_path)
    assert set(tmp_path.rglob("*")) == files, "the file has no name"
    after = [data[index, position] for index in (0, 1) for position in range(8)]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old["lq"], new["lq"]) and torch.equal(old["gt"], new["gt"])
        torch.testing.assert_close(new["taught"], twice(new["lq"]), atol=3e-4, rtol=0)


def test_a_full_disk_is_said_before_the_outputs_are_computed(make_options, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match=r"whole_images.*GiB.*No space"):
        teach(make_options, pair_set(), tmp_path)


WHOLE = {"dense_iter": 0, "search_iter": 4, "distill": {"whole_images": True}}


@pytest.fixture
def trained(make_options, tmp_path):
    """Options of a run whose network is trained, of 4 iterations of search and 8 of finetuning."""
    torch.manual_seed(0)
    weights = tmp_path / "weights.pth"
    torch.save(task_of(make_options()).build_network(make_options()).state_dict(), weights)

    def make(name):
        options = make_options(name=name, compress=WHOLE)
        path = options.path.model_copy(update={"pretrain_network_g": str(weights)})
        return options.model_copy(update={"path": path})

    return make


def test_a_killed_run_ends_as_an_uninterrupted_one(trained, tmp_path, monkeypatch):
    run(trained("whole"), tmp_path)
    run_with_kills(trained("killed"), tmp_path, monkeypatch, (3, 9))
    experiments = tmp_path / "experiments"
    assert_same_run(experiments / "whole", experiments / "killed")


def test_a_run_that_lacks_its_results_alone_asks_no_teacher(trained, tmp_path, monkeypatch):
    run(trained("whole"), tmp_path)
    (tmp_path / "experiments" / "whole" / "metrics.json").unlink()
    monkeypatch.setattr(TrainingLoss, "teach_whole_images", lambda *arguments: pytest.fail())
    assert run(trained("whole"), tmp_path, auto_resume=True)["rows"]


def test_reduced_images_are_inputs_whose_truths_are_not_used(trained, tmp_path, monkeypatch):
    def reduced(name):
        options = trained(name)
        train = options.datasets["train"].model_copy(update={"reductions": [1, 2]})
        distill = options.compress.distill.model_copy(update={"task_loss": False})
        compress = options.compress.model_copy(update={"distill": distill})
        datasets = {**options.datasets, "train": train}
        return options.model_copy(update={"datasets": datasets, "compress": compress})

    assert find_mistakes(reduced("reduced")) == []
    assert isinstance(task_of(reduced("reduced")).train_set(reduced("reduced")), InputTrainSet)
    run(reduced("reduced"), tmp_path)
    run_with_kills(reduced("killed"), tmp_path, monkeypatch, (3, 9))
    experiments = tmp_path / "experiments"
    assert_same_run(experiments / "reduced", experiments / "killed")


def test_the_teacher_does_not_run_on_patches(trained, tmp_path, monkeypatch):
    seen = []
    call = TrainingLoss.__call__

    def counted(self, forward, images, target, taught=None):
        seen.append(taught)
        return call(self, forward, images, target, taught)

    monkeypatch.setattr(TrainingLoss, "__call__", counted)
    run(trained("counted"), tmp_path)
    during = seen[-12:]  # before them is the trial
    assert all(taught is not None and taught.shape == (2, 3, 16, 16) for taught in during)


@pytest.mark.parametrize(
    "network, distill, word",
    [
        (DNCNN, {}, "same at every visit"),
        (EDSR, {}, "from the start"),
        (EDSR, {"mix": 0.5}, "mixed"),
    ],
)
def test_runs_that_cannot_have_it_are_refused(make_options, network, distill, word):
    options = make_options(network, compress={"distill": {"whole_images": True, **distill}})
    mistakes = [text for keys, text in find_mistakes(options) if "whole_images" in keys]
    assert any(word in text for text in mistakes)
