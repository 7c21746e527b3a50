import pytest
import torch

from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.losses import Objective, mixed


def test_nothing_is_mixed_unless_asked():
    images = torch.rand(4, 3, 8, 8)
    same, alone = mixed(images, 0.0)
    assert same is images and alone == 4


@pytest.mark.parametrize("part, alone", [(0.25, 6), (0.5, 4), (1.0, 0)])
def test_the_last_images_are_mixed_with_others(part, alone):
    torch.manual_seed(0)
    images = (
        torch.arange(8.0)
        .reshape(8, 1, 1, 1)
        .expand(8, 3, 4, 4)
        .contiguous(memory_format=torch.channels_last)
    )
    found, count = mixed(images, part)
    assert count == alone and torch.equal(found[:alone], images[:alone])
    assert found.is_contiguous(memory_format=torch.channels_last)
    values = found[alone:, 0, 0, 0]
    assert values.min() >= 0 and values.max() <= 7 and (values != values.round()).any()
    assert (found == found[:, :1, :1, :1]).all(), "an image has one share"


def test_mixed_images_are_judged_by_the_teacher_alone(make_options):
    options = make_options(compress={"distill": {"weight": 2.0, "mix": 0.5}})
    objective = Objective(options, DistributedContext(torch.device("cpu")))
    images, truth = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
    objective.teacher = torch.nn.Identity()
    wrong = truth.clone()
    wrong[2:] += 100
    torch.manual_seed(1)
    loss = objective(lambda images: images, images, wrong)
    assert torch.allclose(loss, (images[:2] - truth[:2]).abs().mean()), (
        "the teacher agrees with the network"
    )
    torch.manual_seed(1)
    further = objective(lambda images: images + 0.25, images, images)
    assert torch.allclose(further, torch.tensor(0.25 + 2.0 * 0.25))


def test_everything_may_be_mixed(make_options):
    objective = Objective(
        make_options(compress={"distill": {"mix": 1.0}}), DistributedContext(torch.device("cpu"))
    )
    objective.teacher = torch.nn.Identity()
    images = torch.rand(4, 3, 8, 8)
    assert objective(lambda images: images, images, images + 9) == 0
