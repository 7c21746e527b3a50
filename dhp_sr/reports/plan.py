"""The plan of a network as text, for terminals of 100 columns."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from dhp_sr.utils.cost_kinds import COST_KINDS

WIDTH = 100
NAME = 34
TIED = 4
"""Layers of a pinned group that are named beside the first."""
TRAINING_FORM = (
    "This is the forward of training mode, for in evaluation the weights are first computed from others. What is cut "
    "keeps that form: branches that the class merges in evaluation stay apart, and cost what is stated here."
)


def plan_text(plan: Mapping[str, Any]) -> str:
    """Return the plan as text.

    Args:
        plan: what `plan.py --json` writes.
    """
    prunable = [group for group in plan["groups"] if not group["reason"]]
    pinned = [group for group in plan["groups"] if group["reason"]]
    lines = [
        *_wrapped(
            f"{plan['name']}: {plan['network']} for an input of {_shape(plan['input'])}, {_dense(plan['dense'])}"
        ),
        "",
        f"Prunable: {_count(prunable)}; how much of the cost goes if one alone is cut to its floor:",
        *_prunable_table(prunable, list(plan["dense"])),
        "",
        f"Not prunable: {_count(pinned)}",
        *(line for group in pinned for line in _pinned_lines(group)),
        "",
    ]
    if plan.get("training_form"):
        lines += [*_wrapped(TRAINING_FORM), ""]
    if plan["excluded"]:
        lines += [*_wrapped(f"Excluded by name: {', '.join(plan['excluded'])}"), ""]
    lines += [
        "With every group at its floor:",
        *(_least_line(kind, plan["least"][kind]) for kind in plan["least"]),
    ]
    if plan["targets"]:
        lines += [
            "",
            "Targets:",
            *(line for target in plan["targets"] for line in _target_lines(target)),
        ]
    return "\n".join(lines) + "\n"


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(str(side) for side in shape)


def _dense(dense: Mapping[str, float]) -> str:
    parts = []
    for kind, value in dense.items():
        facts = COST_KINDS[kind]
        unit = f"{facts.prefix} {facts.unit}" if facts.prefix else facts.unit
        parts.append(f"{value / facts.divisor:.3f} {unit}")
    return ", ".join(parts)


def _count(groups: Sequence[Mapping[str, Any]]) -> str:
    channels = sum(group["width"] for group in groups)
    return f"{len(groups)} group{'s' if len(groups) != 1 else ''}, {channels:,} channel{'s' if channels != 1 else ''}"


def _prunable_table(groups: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> list[str]:
    header = ["group", "width", "floor", "layers", *kinds]
    rows = [
        [
            _short(group["name"]),
            str(group["width"]),
            str(group["floor"]),
            str(len(group["members"])),
            *(f"{group['controls'][kind]:.1%}" for kind in kinds),
        ]
        for group in groups
    ]
    sizes = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return [_row(row, sizes) for row in [header, *rows]]


def _row(cells: Sequence[str], sizes: Sequence[int]) -> str:
    numbers = (cell.rjust(size) for cell, size in zip(cells[1:], sizes[1:], strict=True))
    return "  ".join(["  " + cells[0].ljust(sizes[0]), *numbers])


def _short(name: str) -> str:
    """Leave out the middle of a name that is too long."""
    return name if len(name) <= NAME else f"{name[: NAME // 2 - 2]}...{name[-(NAME // 2 - 1) :]}"


def _pinned_lines(group: Mapping[str, Any]) -> list[str]:
    others = [_short(layer) for layer in group["members"] if layer != group["name"]]
    tied = (
        f"; with it {', '.join(others[:TIED])}{', ...' if len(others) > TIED else ''}"
        if others
        else ""
    )
    return _wrapped(
        f"  {_short(group['name'])} ({group['width']}): {group['reason']}{tied}", "      "
    )


def _least_line(kind: str, least: Mapping[str, float]) -> str:
    held = f"pinned groups hold {least['pinned']:.4f}, floors {least['floors']:.4f}"
    return f"  {least['kept']:.4f} of {kind} remains, the least to ask for ({held})"


def _target_lines(target: Mapping[str, Any]) -> list[str]:
    what = f"  {target['kind']} {target['keep_ratio']:g}: "
    if not target["met"]:
        return _wrapped(what + target["text"], "      ")
    kept = ", ".join(
        f"{ratio:.4f} of {kind}" for kind, ratio in target["kept"].items() if ratio is not None
    )
    return _wrapped(f"{what}can be met; equal scores keep {kept}", "      ")


def _wrapped(text: str, later: str = "  ") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=later, break_long_words=True)
