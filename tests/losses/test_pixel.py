"""Losses against closed forms and BasicSR."""

import pytest
import torch
from basicsr_modules import from_basicsr

from dhp_sr.losses import LOSSES, build_loss
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
def test_equal_pictures_cost_nothing_and_give_a_finite_gradient(name):
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
    with pytest.raises(
        UserError, match=r"'L2Loss' is unknown \(did you mean '.*'\?\); known: L1Loss, MSELoss"
    ):
        build_loss("L2Loss")


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(UserError, match=r"target's shape \(1, 3, 4, 4\), found \(1, 1, 4, 4\)"):
        build_loss("MSELoss")(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))
