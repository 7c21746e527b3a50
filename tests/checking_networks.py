"""Networks whose forwards check sizes, in a file in which pytest leaves `assert` as it is."""

import torch
from torch import nn

WIDTH = 8


def check_equal(found, expected):
    if found != expected:
        raise ValueError(f"expected {expected} channels, got {found}")


class Checked(nn.Module):
    """Two convolutions, and something about the channels between them."""

    def __init__(self):
        super().__init__()
        self.width = WIDTH
        self.head = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.tail = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def look_at(self, y):
        return y

    def forward(self, x):
        return self.tail(self.look_at(self.head(x)))


class Assert(Checked):
    def look_at(self, y):
        assert y.shape[1] == self.width
        return y


class AssertWithMessage(Checked):
    def look_at(self, y):
        _, c, h, w = y.shape
        assert c == self.width, f"expected {self.width} channels, got {c} for {h} x {w}"
        return y


class AssertBoth(Checked):
    def look_at(self, y):
        assert y.dim() == 4 and y.size(1) == self.width and y.size(0) > 0
        return y


class AssertEither(Checked):
    def look_at(self, y):
        assert y.size(1) == 3 or y.size(1) == self.width
        return y


class RaiseIf(Checked):
    def look_at(self, y):
        if y.shape[1] != self.width:
            raise ValueError(f"{y.shape[1]} channels" if y.dim() == 4 else "no image")
        return y


class RaiseElse(Checked):
    def look_at(self, y):
        if y.shape[1] == self.width:
            y = y * 2
        else:
            raise ValueError("an unknown number of channels")
        return y


class InFunction(Checked):
    def look_at(self, y):
        check_equal(y.size(1), self.width)
        return y


class InLoop(Checked):
    def look_at(self, y):
        for size, expected in zip(y.shape, (None, self.width, None, None), strict=True):
            if expected is None:
                continue
            if size != expected:
                raise AssertionError(f"got {size}")
        return y


class TorchAssert(Checked):
    def look_at(self, y):
        torch._assert(y.shape[1] == self.width, "another number of channels")
        return y


CHECKS = (
    Assert,
    AssertWithMessage,
    AssertBoth,
    AssertEither,
    RaiseIf,
    RaiseElse,
    InFunction,
    InLoop,
    TorchAssert,
)


class Branch(Checked):
    def look_at(self, y):
        if y.shape[1] != self.width:
            y = y * 2
        return y


class BranchThatReturns(Checked):
    def look_at(self, y):
        if y.shape[1] == self.width:
            return y * 2
        return y


class BranchBeforeACheck(Checked):
    def look_at(self, y):
        if y.shape[1] != self.width:
            y = y * 2
            if y.shape[1] == 1:
                raise ValueError("a single channel")
        return y


class ReadsItsWeight(Checked):
    def look_at(self, y):
        assert y.shape[1] == self.head.weight.shape[0]
        return y


class EvenSides(Checked):
    def look_at(self, y):
        assert y.shape[2] % 2 == 0, "expected an even height"
        assert y.shape[1] == self.width
        return y
