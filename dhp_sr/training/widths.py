"""Widths before and after the cut, layer by layer."""

from typing import Any

from torch import nn

KINDS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def layer_rows(dense: nn.Module, pruned: nn.Module) -> list[dict[str, Any]]:
    """Return name, kind and [out, in] channels before and after of every convolution and linear layer."""
    small = dict(pruned.named_modules())
    return [
        {
            "name": name,
            "kind": type(layer).__name__,
            "before": _sizes(layer),
            "after": _sizes(small[name]),
        }
        for name, layer in dense.named_modules()
        if isinstance(layer, KINDS) and name in small
    ]


def _sizes(layer: nn.Module) -> list[int]:
    out, into = layer.weight.shape[:2]
    if isinstance(layer, nn.ConvTranspose2d):
        return [into * layer.groups, out]
    return [out, into * getattr(layer, "groups", 1)]
