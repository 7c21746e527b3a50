"""Losses against closed forms and BasicSR."""

import pytest
import torch
from basicsr_modules import from_basicsr

from dhp_sr.losses import LOSSES, build_class_loss, build_loss, kd_loss
from dhp_sr.utils.errors import UserError


@pytest.mark.parametrize(
    "name, expected", [("L1Loss", 0.5), ("MSELoss", 0.25), ("CharbonnierLoss", 0.5)]
)
def test_constant_difference(name, expected):
    target = torch.rand(2, 3, 4, 5)
    assert build_loss(name)(target + 0.5, target).item() == pytest.approx(expected)
    assert build_loss(name, loss_weight=3.0)(target + 0.5, target).item() == pytest.approx(
        3 * expected
    )


@pytest.mark.parametrize("name", LOSSES)
def test_equal_images_cost_nothing_and_give_a_finite_gradient(name):
    prediction = torch.rand(1, 1, 4, 4, requires_grad=True)
    loss = build_loss(name)(prediction, prediction.detach().clone())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1.1e-6)
    assert prediction.grad.abs().max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_equal_to_basicsr(name):
    theirs = from_basicsr("losses.basic_loss")
    prediction, target = torch.rand(2, 1, 3, 6, 6)
    ours = build_loss(name, 0.7)(prediction, target)
    torch.testing.assert_close(ours, getattr(theirs, name)(loss_weight=0.7)(prediction, target))


def test_losses_hold_no_state():
    assert list(build_loss("L1Loss").state_dict()) == []


def test_unknown_loss_is_explained():
    with pytest.raises(UserError, match=r"'L2Loss'.*L1Loss, MSELoss"):
        build_loss("L2Loss")


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(UserError, match=r"\(1, 3, 4, 4\).*\(1, 1, 4, 4\)"):
        build_loss("MSELoss")(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))


def test_cross_entropy_by_hand():
    scores, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2, 0])
    expected = -torch.log_softmax(scores, 1)[range(6), labels].mean()
    assert torch.allclose(
        build_class_loss("CrossEntropyLoss", loss_weight=2.5)(scores, labels), 2.5 * expected
    )


def test_smoothing_spreads_probability_over_all_classes():
    scores, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2, 0])
    logs = torch.log_softmax(scores, 1)
    target = 0.8 * torch.eye(4, dtype=torch.float64)[labels] + 0.2 / 4
    assert torch.allclose(
        build_class_loss("CrossEntropyLoss", label_smoothing=0.2)(scores, labels),
        -(target * logs).sum(1).mean(),
    )


def test_images_are_no_scores():
    with pytest.raises(UserError, match=r"\(2, classes\).*\(2, 3, 8, 8\)"):
        build_class_loss("CrossEntropyLoss")(
            torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
        )


def test_an_unknown_loss_is_named():
    with pytest.raises(UserError, match=r"'CrossEntropyLos'.*'CrossEntropyLoss'"):
        build_class_loss("CrossEntropyLos")


def test_the_distance_is_the_divergence_from_the_teacher():
    mine, teacher = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    p, q = torch.softmax(teacher / 3, 1), torch.softmax(mine / 3, 1)
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(kd_loss(mine, teacher, 3.0), expected)
    assert kd_loss(teacher, teacher, 3.0) == pytest.approx(0, abs=1e-12)


def test_at_high_temperature_it_compares_scores_themselves():
    """Hinton et al., section 2.1: the gradient tends to the centered difference / classes."""
    mine, teacher = (
        torch.randn(1, 4, dtype=torch.float64, requires_grad=True),
        torch.randn(1, 4, dtype=torch.float64),
    )
    kd_loss(mine, teacher, 1e4).backward()
    centered = (mine - mine.mean()) - (teacher - teacher.mean())
    assert torch.allclose(mine.grad, centered / 4, atol=1e-4)
