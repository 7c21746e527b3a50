"""Channel groups as text: the plan of a network, and its widths before and after the cut."""

import textwrap
from collections.abc import Sequence
from typing import Any

from dhp_sr.reports.formatting import CostColumn, pad_columns, shape_text
from dhp_sr.utils.cost_kinds import COST_KINDS
from dhp_sr.utils.errors import abbreviate
from dhp_sr.utils.strict_json import JsonObject

LINE_LENGTH = 100
"""Longest line of the plan in characters; terminals that wide are common."""
NAME_LENGTH = 34
"""Longest name of a layer in characters; of a longer one the middle is left out."""
NUM_COUPLED_NAMES = 4
"""Number of layers named beside the first of a pinned group."""
BAR_LENGTH = 24
"""Characters of a bar that shows the kept fraction."""

_TRAINING_FORM = (
    "This is the forward of training mode, because evaluation mode computes the weights from "
    "others first. The pruned network keeps that form: branches that the class fuses in "
    "evaluation mode stay apart, and cost what is stated here."
)

_KEPT_STATISTICS = (
    "Statistics over the kept channels, while channels are masked as after the cut (normalizations "
    "over channels, means and maxima over them, standardized weights):"
)

FORMER_KEYS = {
    "least": "lower_bound",
    "floor": "min_width",
    "floors": "min_width",
    "controls": "cost_shares",
}
"""Key in a plan.json of an earlier version -> key today."""

REMOVED = "removed"
"""Shown for groups and layers that went with a residual branch."""

Group = JsonObject
"""Channel group of plan.json or widths.json."""


def plan_text(plan: JsonObject) -> str:
    """Format which channel groups can be pruned, and whether the targets can be met.

    Args:
        plan: Contents of plan.json, which `plan.py --json` writes.
    """
    # A group is pinned exactly if there is a reason for it.
    prunable = [group for group in plan["groups"] if not group["reason"]]
    pinned = [group for group in plan["groups"] if group["reason"]]
    title = f"{plan['name']}: {plan['network']} for an input of {shape_text(plan['input'], ' x ')}"
    for name, value in plan["dense"].items():
        kind = COST_KINDS[name]
        title += f", {value / kind.divisor:.3f} {CostColumn(kind).unit} {kind.label}"
    lines = [
        *_wrapped(title),
        "",
        *_wrapped(
            f"Prunable: {_counts(prunable)}; cost saved by cutting a single group to its minimum "
            "width:"
        ),
        *prunable_table(prunable, list(plan["dense"])),
        "",
        *removable_lines(prunable),
        f"Not prunable: {_counts(pinned)}",
    ]
    for group in pinned:
        lines += pinned_group_lines(group)
    lines.append("")
    if plan.get("training_form"):
        lines += [*_wrapped(_TRAINING_FORM), ""]
    if plan.get("kept_statistics"):
        lines += [*_wrapped(f"{_KEPT_STATISTICS} {_places(plan['kept_statistics'])}"), ""]
    if plan["excluded"]:
        lines += [*_wrapped(f"Excluded by name: {', '.join(plan['excluded'])}"), ""]
    lines.append(f"{_lowest_cost(plan, prunable)}:")
    for kind, bound in plan["lower_bound"].items():
        # No target below this can be met, whatever the search does.
        lines.append(
            f"  {bound['kept']:.4f} of {kind} remains, the lowest possible target "
            f"(pinned {bound['pinned']:.4f}, prunable {bound['min_width']:.4f})"
        )
    if plan["targets"]:
        lines += ["", "Targets:"]
    for target in plan["targets"]:
        lines += target_lines(target)
    return "\n".join(lines) + "\n"


def _lowest_cost(plan: JsonObject, prunable: Sequence[Group]) -> str:
    """Say which network has the lowest possible cost."""
    text = "With every group at its minimum width"
    # Plans of earlier versions do not state the rules.
    may_remove = plan.get("rules", {}).get("remove_blocks", False)
    if may_remove and any(group["removable"] for group in prunable):
        text += ", and without the branches that can be removed"
    return text


def with_current_keys(plan: Any) -> Any:
    """Return the contents of a plan.json under the keys of today, at any depth."""
    if isinstance(plan, list):
        return [with_current_keys(item) for item in plan]
    if not isinstance(plan, dict):
        return plan
    current = {}
    for key, value in plan.items():
        current[FORMER_KEYS.get(key, key)] = with_current_keys(value)
    return current


def widths_text(widths: JsonObject) -> str:
    """Format two tables: the channel groups with the reasons of pinned ones, and the layers.

    Args:
        widths: Contents of widths.json.
    """
    groups, layers = widths["groups"], widths["layers"]
    num_before = 0
    num_kept = 0
    # Bars and notes need no headings.
    group_table = [["group", "before", "after", "kept", "", ""]]
    for group in groups:
        num_before += group["before"]
        num_kept += group["after"]
        ratio = group["after"] / group["before"]
        filled = round(ratio * BAR_LENGTH)
        bar = "#" * filled + "." * (BAR_LENGTH - filled)
        note = "" if group["prunable"] else f"not pruned: {group['reason']}"
        if group["after"] == 0:
            note = REMOVED
        counts = [str(group["before"]), str(group["after"]), f"{ratio:.0%}"]
        group_table.append([group["name"], *counts, bar, note])
    layer_table = [["layer", "kind", "before", "after", "weights kept"]]
    for layer in layers:
        # Stored as a weight's shape, output channels first; read from input to output.
        out_before, in_before = layer["before"]
        out_after, in_after = layer["after"]
        ratio = out_after * in_after / (out_before * in_before)
        kept = f"{in_after} -> {out_after}" if out_after else REMOVED
        change = [f"{in_before} -> {out_before}", kept, f"{ratio:.0%}"]
        layer_table.append([layer["name"], layer["kind"], *change])
    lines = [
        f"Channel groups: {len(groups)}, {num_kept} of {num_before} channels kept",
        "",
        *_indented(group_table, left=(0, 4, 5)),
        "",
        f"Layers: {len(layers)}, channels as in -> out",
        "",
        *_indented(layer_table, left=(0, 1)),
    ]
    return "\n".join(lines) + "\n"


def _counts(groups: Sequence[Group]) -> str:
    num_channels = sum(group["width"] for group in groups)
    return f"{_plural(len(groups), 'group')}, {_plural(num_channels, 'channel')}"


def _places(names: Sequence[str]) -> str:
    """Name the layers with statistics over kept channels, and the calls, `block.mean()`."""
    texts = []
    for noun in ("layer", "function call"):
        named = [name for name in names if name.endswith("()") == (noun == "function call")]
        if named:
            texts.append(f"{_plural(len(named), noun)}, {abbreviate(named)}")
    return "; ".join(texts)


def _plural(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}s"


def prunable_table(groups: Sequence[Group], kinds: Sequence[str]) -> list[str]:
    """Format widths and minimum widths of groups, and what each saves of the kinds of cost."""
    table = [["group", "width", "min width", "layers", *kinds]]
    for group in groups:
        sizes = [str(group["width"]), str(group["min_width"]), str(len(group["members"]))]
        cells = [_abbreviated(group["name"]), *sizes]
        for kind in kinds:
            cells.append(f"{group['cost_shares'][kind]:.1%}")
        table.append(cells)
    return _indented(table, left=(0,))


def removable_lines(groups: Sequence[Group]) -> list[str]:
    """Format which groups can be removed with their residual branch; none where there are none."""
    names = [_abbreviated(group["name"]) for group in groups if group.get("removable")]
    if not names:
        return []
    text = f"Removable with their residual branch: {_plural(len(names), 'group')}, "
    return [*_wrapped(text + abbreviate(names)), ""]


def pinned_group_lines(group: Group) -> list[str]:
    """Format the reason of a pinned group, and the first layers coupled to it."""
    name = group["name"]
    others = [_abbreviated(layer) for layer in group["members"] if layer != name]
    text = f"  {_abbreviated(name)} ({group['width']}): {group['reason']}"
    if others:
        text += f"; coupled to {', '.join(others[:NUM_COUPLED_NAMES])}"
    if len(others) > NUM_COUPLED_NAMES:
        text += ", ..."
    return _wrapped(text, "      ")


def target_lines(target: JsonObject) -> list[str]:
    """Format whether a target can be met, and what remains then, or why it cannot."""
    text = f"  {target['kind']} {target['keep_ratio']:g}: "
    if target["met"]:
        kept = []
        for kind, ratio in target["kept"].items():
            if ratio is not None:
                kept.append(f"{ratio:.4f} of {kind}")
        # No search has run yet: with equal scores a budget depends on the widths alone.
        text += f"can be met; equal scores keep {', '.join(kept)}"
    else:
        text += target["text"]
    return _wrapped(text, "      ")


def _abbreviated(name: str) -> str:
    if len(name) <= NAME_LENGTH:
        return name
    # The beginning names the block and the end the layer in it: the middle tells least.
    half = NAME_LENGTH // 2
    return f"{name[: half - 2]}...{name[-(half - 1) :]}"


def _indented(table: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    lines = []
    for row in pad_columns(table, left):
        lines.append(f"  {'  '.join(row)}".rstrip())
    return lines


def _wrapped(text: str, later_indent: str = "  ") -> list[str]:
    # Names of layers can be longer than a line; they are broken rather than exceed it.
    return textwrap.wrap(text, LINE_LENGTH, subsequent_indent=later_indent, break_long_words=True)
