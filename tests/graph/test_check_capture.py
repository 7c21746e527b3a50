"""A captured graph computes what the network does, at the example's size if at no smaller one."""

import pytest
import torch
from torch import nn

from dhp_sr.graph import capture
from dhp_sr.graph.capture import check_capture, trace
from dhp_sr.utils.errors import UserError


class Windows(nn.Module):
    """Takes the mean of each window: works at multiples of 64 alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x).unflatten(2, (-1, 64)).unflatten(4, (-1, 64)).mean((3, 5))


class BySize(nn.Module):
    """Computes something else for small images, which the graph of a large one does not know."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x) if x.shape[2] >= 64 else self.conv(x) * 2


NETWORKS = [nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), Windows(), BySize()]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_a_right_capture_passes_and_a_wrong_one_is_refused(network):
    example = torch.zeros(1, 3, 64, 128)
    traced = trace(network, example)
    check_capture(network, traced, example)
    with torch.no_grad():
        next(traced.graph_module.parameters()).add_(1)
    with pytest.raises(UserError, match="difference of"):
        check_capture(network, traced, example)


def test_a_small_image_is_enough_where_the_forward_takes_any(monkeypatch):
    sizes = []
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    traced = trace(network, torch.zeros(1, 3, 64, 128))
    difference = capture._difference

    def recorded(network, traced, image, further):
        sizes.append(tuple(image.shape[2:]))
        return difference(network, traced, image, further)

    monkeypatch.setattr(capture, "_difference", recorded)
    check_capture(network, traced, torch.zeros(1, 3, 64, 128))
    check_capture(network, traced, torch.zeros(1, 3, 32, 128))
    assert sizes == [(16, 32), (32, 128)]
