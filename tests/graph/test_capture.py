"""Forwards that plain torch.fx cannot follow."""

import torch
from torch import nn

from dhp_sr.graph.capture import trace


class Modulated(nn.Module):
    """A keyword has the name of an argument of torch.fx's own."""

    def forward(self, x, mod):
        return x * mod


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Modulated()

    def forward(self, x, degrees=(None, 2.0)):
        assert degrees[0] is None
        return self.inner(x, mod=degrees[1])


def test_keywords_of_any_name_and_default_values_are_followed():
    traced = trace(Outer(), torch.rand(1, 3, 4, 4)).graph_module
    x = torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(traced(x), 2 * x)


class Singly(nn.Module):
    def forward(self, x):
        assert isinstance(x, torch.Tensor)
        return x + torch.Tensor(x.shape[0], 1, 1, x.shape[3]).fill_(2.0)


def test_a_tensor_of_sizes_given_one_by_one_follows_the_input():
    traced = trace(Singly(), torch.rand(1, 3, 4, 4)).graph_module
    x = torch.rand(2, 3, 5, 5)
    torch.testing.assert_close(traced(x), x + 2)


class AsksWhetherTensor(nn.Module):
    """Moves its weight to where a constant is, which is no value that is traced."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3))
        self.constant = torch.rand(1, 3)

    def forward(self, x):
        assert torch.is_tensor(x) and not torch.is_tensor(3)
        y = self.constant.matmul(self.weight.t().to(self.constant.device))
        assert isinstance(y, torch.Tensor) and y.shape == (1, 4)
        return x.mean() + y


def test_a_weight_may_be_moved_to_the_device_of_a_constant():
    network = AsksWhetherTensor()
    x = torch.rand(2, 3)
    torch.testing.assert_close(trace(network, x).graph_module(x), network(x))
