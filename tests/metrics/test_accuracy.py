"""Top-1 and top-5: closed forms, ties, and what is no answer."""

import pytest
import torch

from dhp_sr.metrics import error_percent, num_correct


def test_a_permutation_has_its_class_at_every_rank_once():
    scores = torch.arange(10.0).expand(10, 10)  # class 9 first, class 0 last
    labels = torch.arange(10)
    assert [num_correct(scores, labels, k) for k in (1, 5, 10)] == [1, 5, 10]
    assert error_percent(scores, labels) == pytest.approx(90) and error_percent(
        scores, labels, 5
    ) == pytest.approx(50)


def test_agrees_with_topk_where_no_scores_are_equal():
    scores, labels = torch.rand(200, 20), torch.randint(20, (200,))
    for k in (1, 3, 5):
        assert num_correct(scores, labels, k) == int(
            (scores.topk(k).indices == labels[:, None]).any(1).sum()
        )


def test_equal_scores_are_not_all_hits():
    """A network that says the same of every class is right for the first one only."""
    assert num_correct(torch.zeros(10, 10), torch.arange(10)) == 1
    assert num_correct(torch.zeros(10, 10), torch.arange(10), 5) == 5


def test_no_number_is_no_hit():
    scores = torch.tensor([[1.0, 0.0], [1.0, float("nan")], [float("inf"), 0.0]])
    assert num_correct(scores, torch.tensor([0, 0, 0])) == 1
    assert num_correct(scores, torch.tensor([0, 0, 0]), 5) == 1


@pytest.mark.parametrize("labels", [[2, 0], [0, -1]])
def test_labels_out_of_range_are_refused(labels):
    with pytest.raises(ValueError, match="expected labels from 0 to 1, got"):
        num_correct(torch.zeros(2, 2), torch.tensor(labels))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(3,\), k=1"):
        num_correct(torch.zeros(2, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="at least one image"):
        error_percent(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
