"""Differences of outputs: every tensor counts, whatever structure it is in."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch

from dhp_sr.utils.network_io import relative_difference, tensors_of


class Pair(NamedTuple):
    image: torch.Tensor
    mask: torch.Tensor


@dataclass
class Result:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


ONES = torch.ones(2, 3)
OUTPUTS = {
    "tensor": lambda x: x,
    "tuple": lambda x: (ONES, x),
    "named tuple": lambda x: Pair(ONES, x),
    "list in a dict": lambda x: OrderedDict(out=ONES, more=[None, x]),
    "dataclass": lambda x: Result(x),
}


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_the_difference_is_that_of_the_tensor_that_differs(output):
    assert relative_difference(output(4 * ONES), output(4 * ONES)) == 0
    assert relative_difference(output(4 * ONES), output(3 * ONES)) == 0.25
    assert math.isnan(relative_difference(output(4 * ONES), output(math.nan * ONES)))
    assert relative_difference(output(ONES), output(ONES[:1])) == math.inf
    assert relative_difference(output(ONES), output(None)) == math.inf


def test_structures_are_compared():
    assert relative_difference((ONES,), (ONES, ONES)) == math.inf
    assert relative_difference({"a": ONES}, {"b": ONES}) == math.inf
    assert relative_difference({"a": ONES, "b": 2 * ONES}, {"b": 2 * ONES, "a": ONES}) == 0


def test_whole_numbers_and_masks_are_compared():
    assert relative_difference(torch.tensor([1, 4]), torch.tensor([2, 4])) == 0.25
    assert relative_difference(torch.tensor([True]), torch.tensor([False])) == 1
    assert relative_difference((ONES, 2), (ONES, 1)) == 0.5
    assert relative_difference(torch.empty(0), torch.empty(0)) == 0


def test_paths_lead_to_the_tensors():
    paths = [path for path, _ in tensors_of({"a": [ONES, (ONES, "text")], "b": 3})]
    assert paths == [("a", 0), ("a", 1, 0), ("b",)]
