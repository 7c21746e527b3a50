import pytest
import torch

from dhp_sr.training.distributed import DistributedContext
from dhp_sr.training.loss import TrainingLoss, mixup

CPU = DistributedContext(torch.device("cpu"))


def test_nothing_is_mixed_unless_asked():
    images = torch.rand(4, 3, 8, 8)
    same, unmixed = mixup(images, 0.0)
    assert same is images and unmixed == 4


@pytest.mark.parametrize("fraction, expected", [(0.25, 6), (0.5, 4), (1.0, 0)])
def test_the_last_images_are_mixed_with_others(fraction, expected):
    numbers = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 3, 4, 4)
    images = numbers.contiguous(memory_format=torch.channels_last)
    mixed, unmixed = mixup(images, fraction)
    assert unmixed == expected and torch.equal(mixed[:unmixed], images[:unmixed])
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    values = mixed[unmixed:, 0, 0, 0]
    assert values.min() >= 0 and values.max() <= 7 and (values != values.round()).any()
    assert (mixed == mixed[:, :1, :1, :1]).all(), "an image has one proportion"


def test_mixed_images_count_for_the_distillation_alone(make_options):
    options = make_options(compress={"distill": {"weight": 2.0, "mix": 0.5}})
    loss = TrainingLoss(options, CPU)
    loss.teacher = torch.nn.Identity()
    images = torch.rand(4, 3, 8, 8)
    target = torch.rand(4, 3, 8, 8)
    target_of_mixed = target.clone()
    target_of_mixed[2:] += 100
    agreeing = loss(lambda x: x, images, target_of_mixed)
    assert torch.allclose(agreeing, (images[:2] - target[:2]).abs().mean())
    differing = loss(lambda x: x + 0.25, images, images)
    assert torch.allclose(differing, torch.tensor(0.25 + 2.0 * 0.25))


def test_everything_may_be_mixed(make_options):
    loss = TrainingLoss(make_options(compress={"distill": {"mix": 1.0}}), CPU)
    loss.teacher = torch.nn.Identity()
    images = torch.rand(4, 3, 8, 8)
    assert loss(lambda x: x, images, images + 9) == 0


def test_what_was_taught_before_stands_for_the_teacher(make_options):
    loss = TrainingLoss(make_options(compress={"distill": {"weight": 2.0}}), CPU)

    def teacher(images):
        raise AssertionError("the teacher runs")

    loss.teacher = teacher
    images = torch.rand(2, 3, 8, 8)
    found = loss(lambda x: x, images, images, images + 0.25)
    assert torch.allclose(found, torch.tensor(2.0 * 0.25))


def test_a_network_that_writes_into_its_input_leaves_the_teachers_as_it_was(make_options):
    loss = TrainingLoss(make_options(compress={"distill": {"weight": 2.0}}), CPU)
    loss.teacher = torch.nn.Identity()
    images = torch.rand(2, 3, 8, 8)
    before = images.clone()
    found = loss(lambda x: x.mul_(2) / 2, images, before)
    assert torch.equal(images, before)
    assert torch.allclose(found, torch.tensor(0.0))
