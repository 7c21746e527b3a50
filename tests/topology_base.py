"""Frame of the small networks: a convolution, the piece under test, a convolution."""

from torch import nn


def conv(inputs, outputs, kernel=3, **more):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **more)


class Net(nn.Module):
    """first -> middle -> last, where `middle` is the piece under test."""

    def __init__(self, outputs=8, **parts):
        super().__init__()
        self.first, self.last = conv(2, 8), conv(outputs, 2)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))
