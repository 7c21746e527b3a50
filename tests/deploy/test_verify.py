"""Comparison of exports with PyTorch."""

import pytest
import torch
from torch import nn

from dhp_sr.deploy.verify import compare, unseen_shapes
from dhp_sr.utils.errors import UserError

NETWORK = nn.Identity()
SHAPES = [(1, 1, 4, 5), (3, 1, 6, 4)]


def test_shapes_differ_from_the_one_seen_on_every_axis():
    for multiple in (1, 4, 16):
        for seen in ((2, 3, 32, 48), (2, 3, 48, 64), (2, 3, 33, 17), (2, 3, 112, 32)):
            found = unseen_shapes(seen, multiple)
            assert len(set(found)) == 2 and {shape[1] for shape in found} == {3}
            for shape in found:
                assert (
                    all(new != old for new, old in zip(shape[2:], seen[2:], strict=True))
                    and shape[0] != 2
                )
                assert all(side % multiple == 0 for side in shape[2:])


def test_the_largest_difference_is_found():
    def wrong(x):
        found = x.clone()
        found[-1, 0, -1, -1] += 0.25 if len(x) > 1 else 0.125
        return found

    found = compare(NETWORK, wrong, SHAPES, 0.5)
    assert (
        found.differences == pytest.approx({SHAPES[0]: 0.125, SHAPES[1]: 0.25})
        and found.largest == 0.25
    )
    with pytest.raises(UserError, match=r"0\.2.*0\.125 at 1x1x4x5, 0\.25 at 3x1x6x4"):
        compare(NETWORK, wrong, SHAPES, 0.2)


def test_large_values_are_compared_as_fractions():
    hundredfold = nn.Threshold(-1, 0)
    hundredfold.forward = lambda x: 100 * x
    found = compare(hundredfold, lambda x: 100 * x + 1, SHAPES, 0.02).largest
    assert 0.01 <= found < 0.012


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda x: x[..., :-1],
            r"\(1, 1, 4, 5\).*1x1x4x5.*\(1, 1, 4, 4\)",
        ),
        (lambda x: x * float("nan"), "nan at 1x1x4x5"),
        (lambda x: x / 0, "(inf|nan) at 1x1x4x5"),
        (
            lambda x: torch.cat([x, torch.zeros(9)]),
            "1x1x4x5: ",
        ),
    ],
)
def test_what_is_no_agreement(run, message):
    with pytest.raises(UserError, match="not written: .*" + message):
        compare(NETWORK, run, SHAPES, 0.1)
