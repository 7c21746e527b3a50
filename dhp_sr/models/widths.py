"""Widths before and after the cut, by group and by layer."""

from typing import Any

from torch import nn

from dhp_sr.models.tables import aligned

KINDS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def layer_rows(dense: nn.Module, pruned: nn.Module) -> list[dict[str, Any]]:
    """Return name, kind and [out, in] channels before and after of every convolution and linear layer."""
    small = dict(pruned.named_modules())
    return [
        {"name": name, "kind": type(layer).__name__, "before": _sizes(layer), "after": _sizes(small[name])}
        for name, layer in dense.named_modules()
        if isinstance(layer, KINDS) and name in small
    ]


def widths_text(widths: dict[str, Any]) -> str:
    """Return the content of widths.json as aligned text."""
    groups = [
        (group["name"], str(group["before"]), str(group["after"]), "" if group["prunable"] else group["reason"])
        for group in widths["groups"]
    ]
    layers = [
        (layer["name"], layer["kind"], _pair(layer["before"]), _pair(layer["after"])) for layer in widths["layers"]
    ]
    return "\n\n".join(
        [
            aligned([("group", "before", "after", "kept whole because"), *groups]),
            aligned([("layer", "kind", "before (out x in)", "after (out x in)"), *layers]),
        ]
    )


def _sizes(layer: nn.Module) -> list[int]:
    out, into = layer.weight.shape[:2]
    if isinstance(layer, nn.ConvTranspose2d):
        return [into * layer.groups, out]
    return [out, into * getattr(layer, "groups", 1)]


def _pair(sizes: list[int]) -> str:
    return f"{sizes[0]} x {sizes[1]}"
