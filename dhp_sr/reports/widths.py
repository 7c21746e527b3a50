"""Widths before and after the cut as text, for terminals and for `widths.txt`."""

from collections.abc import Mapping, Sequence
from typing import Any

_BAR = 24


def widths_text(widths: Mapping[str, Any]) -> str:
    """Return two tables: the channel groups with the reason of each that was kept whole, and the layers.

    Args:
        widths: the contents of `widths.json`.
    """
    groups, layers = widths["groups"], widths["layers"]
    kept = sum(group["after"] for group in groups)
    before = sum(group["before"] for group in groups)
    parts = [
        f"Channel groups: {len(groups)}, {kept} of {before} channels kept\n",
        *_table(
            ["group", "before", "after", "kept", "", ""], [_group_cells(group) for group in groups]
        ),
        "",
        f"Layers: {len(layers)}, channels as in -> out\n",
        *_table(
            ["layer", "kind", "before", "after", "weights kept"],
            [_layer_cells(layer) for layer in layers],
        ),
    ]
    return "\n".join(parts) + "\n"


def _group_cells(group: Mapping[str, Any]) -> list[str]:
    ratio = group["after"] / group["before"]
    filled = round(ratio * _BAR)
    note = "" if group["prunable"] else f"not pruned: {group['reason']}"
    bar = "#" * filled + "." * (_BAR - filled)
    return [group["name"], str(group["before"]), str(group["after"]), f"{ratio:.0%}", bar, note]


def _layer_cells(layer: Mapping[str, Any]) -> list[str]:
    (out_before, in_before), (out_after, in_after) = layer["before"], layer["after"]
    ratio = out_after * in_after / (out_before * in_before)
    return [
        layer["name"],
        layer["kind"],
        f"{in_before} -> {out_before}",
        f"{in_after} -> {out_after}",
        f"{ratio:.0%}",
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns: names and notes to the left, numbers to the right."""
    columns = list(zip(header, *rows, strict=True))
    sizes = [max(len(cell) for cell in column) for column in columns]
    left = [not any(cell[:1].isdigit() for cell in column) for column in columns]

    def line(cells: Sequence[str]) -> str:
        placed = [
            cell.ljust(size) if to_left else cell.rjust(size)
            for cell, size, to_left in zip(cells, sizes, left, strict=True)
        ]
        return ("  " + "  ".join(placed)).rstrip()

    return [line(header), *(line(row) for row in rows)]
