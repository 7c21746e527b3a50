import pytest
import torch

from dhp_sr.losses import build_class_loss, softened_distance
from dhp_sr.utils.errors import UserError


def test_cross_entropy_by_hand():
    scores, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2, 0])
    expected = -torch.log_softmax(scores, 1)[range(6), labels].mean()
    assert torch.allclose(
        build_class_loss("CrossEntropyLoss", loss_weight=2.5)(scores, labels), 2.5 * expected
    )


def test_smoothing_spreads_a_part_of_the_truth_over_all_classes():
    scores, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2, 0])
    logs = torch.log_softmax(scores, 1)
    truth = 0.8 * torch.eye(4, dtype=torch.float64)[labels] + 0.2 / 4
    assert torch.allclose(
        build_class_loss("CrossEntropyLoss", label_smoothing=0.2)(scores, labels),
        -(truth * logs).sum(1).mean(),
    )


def test_images_are_no_scores():
    with pytest.raises(
        UserError, match=r"expected scores of shape \(2, classes\), found \(2, 3, 8, 8\)"
    ):
        build_class_loss("CrossEntropyLoss")(
            torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
        )


def test_an_unknown_loss_is_named():
    with pytest.raises(
        UserError, match=r"'CrossEntropyLos' is unknown .did you mean 'CrossEntropyLoss'"
    ):
        build_class_loss("CrossEntropyLos")


def test_the_distance_is_the_divergence_from_the_teacher():
    mine, teacher = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    p, q = torch.softmax(teacher / 3, 1), torch.softmax(mine / 3, 1)
    expected = 9 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(softened_distance(mine, teacher, 3.0), expected)
    assert softened_distance(teacher, teacher, 3.0) == pytest.approx(0, abs=1e-12)


def test_at_high_temperature_it_compares_scores_themselves():
    """Hinton et al., section 2.1: with centered scores the gradient tends to (mine - teacher) / classes."""
    mine, teacher = (
        torch.randn(1, 4, dtype=torch.float64, requires_grad=True),
        torch.randn(1, 4, dtype=torch.float64),
    )
    softened_distance(mine, teacher, 1e4).backward()
    centered = (mine - mine.mean()) - (teacher - teacher.mean())
    assert torch.allclose(mine.grad, centered / 4, atol=1e-4)
