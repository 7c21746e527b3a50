"""Widths of the layers before and after the cut, and the channel groups behind them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dhp_sr.reports.formatting import PAGE_MISSING
from dhp_sr.reports.run import Run
from dhp_sr.utils.cost_kinds import COST_KINDS, CostKind
from dhp_sr.utils.strict_json import JsonObject


@dataclass(frozen=True)
class LayerWidths:
    """Widths of a layer in one pruned model."""

    model: str
    """Name of the model."""
    number: int
    """Number of the model among all of the page, from 0, which its color follows."""
    in_channels: int
    """Input channels."""
    out_channels: int
    """Output channels."""
    percent: float
    """Output channels in percent of the widest layer's."""
    weights: str
    """Kept fraction of the layer's weights, as text."""


@dataclass(frozen=True)
class Layer:
    """A layer before the cut and in every pruned model."""

    name: str
    """Name in the network."""
    kind: str
    """Class of the module."""
    in_channels: int
    """Input channels before the cut."""
    out_channels: int
    """Output channels before the cut."""
    percent: float
    """Output channels in percent of the widest layer's."""
    pruned: tuple[LayerWidths, ...]
    """Widths in each pruned model that has the layer."""


@dataclass(frozen=True)
class Group:
    """Coupled channels: a dependency group."""

    name: str
    """Name, usually that of the first layer that produces the channels."""
    layers: tuple[str, ...]
    """All layers with these channels; empty for a run without a plan."""
    before: int
    """Width in the dense network."""
    after: Mapping[str, int]
    """Pruned model -> width."""
    min_width: int | None
    """Smallest width that a cut may leave; None for a run without a plan."""
    savings: tuple[str, ...]
    """Fractions of the costs in `saving_kinds` that are saved when the group alone is cut to its
    minimum width, as text."""
    reason: str
    """Reason why the group is pinned, empty for a prunable one."""


def layers_of(cut_widths: Mapping[str, JsonObject]) -> list[Layer]:
    """List the layers of a run, or of several.

    Layers of one name and one width before the cut share a row. Different networks may be compared:
    their rows follow each other, and a row has the models alone that have the layer.

    Args:
        cut_widths: Pruned model -> contents of its widths.json.
    """
    # Another width before the cut means another network: in a shared row its bar would mislead.
    rows: dict[tuple[str, tuple[int, ...]], list[tuple[str, int, JsonObject]]] = {}
    for number, (model, widths) in enumerate(cut_widths.items()):
        for layer in widths["layers"]:
            key = (layer["name"], tuple(layer["before"]))
            rows.setdefault(key, []).append((model, number, layer))
    # All bars have the same scale, that of the widest layer.
    widest = max((before[0] for _, before in rows), default=1)
    layers = []
    for (name, (out_before, in_before)), models in rows.items():
        pruned = []
        for model, number, layer in models:
            out_after, in_after = layer["after"]
            # The kernel is the same, so weights are proportional to the product of the channels.
            weights = f"{out_after * in_after / (out_before * in_before):.0%}"
            percent = 100 * out_after / widest
            pruned.append(LayerWidths(model, number, in_after, out_after, percent, weights))
        kind = models[0][2]["kind"]
        percent = 100 * out_before / widest
        layers.append(Layer(name, kind, in_before, out_before, percent, tuple(pruned)))
    return layers


def models_of(layers: Iterable[Layer]) -> dict[int, str]:
    """List the models that layers have widths of: number -> name."""
    models = {}
    for layer in layers:
        for widths in layer.pruned:
            models[widths.number] = widths.model
    return dict(sorted(models.items()))


def saving_kinds(run: Run) -> list[CostKind]:
    """List the kinds of cost that the plan of a run states for each group."""
    names: set[str] = set()
    for group in (run.plan or {}).get("groups", ()):
        # The plan of a run before its training measures no latency.
        names.update(group.get("cost_shares") or ())
    return [kind for kind in COST_KINDS.values() if kind.name in names]


def groups_of(run: Run) -> list[Group]:
    """List the channel groups of a run, those of its plan first."""
    planned = by_name((run.plan or {}).get("groups", ()))
    cut_by_model = {}
    for model, widths in run.cut_widths.items():
        cut_by_model[model] = by_name(widths["groups"])
    # An older run has no plan: its groups are known from its first pruned model alone.
    first_cut: JsonObject = next(iter(cut_by_model.values()), {})
    kinds = saving_kinds(run)
    groups = []
    for name in dict.fromkeys([*planned, *first_cut]):
        cut = {}
        for model, model_groups in cut_by_model.items():
            if name in model_groups:
                cut[model] = model_groups[name]
        groups.append(merge_group(name, planned.get(name, {}), cut, kinds))
    return groups


def by_name(entries: Iterable[JsonObject]) -> dict[str, JsonObject]:
    """Index layers or groups of a JSON file by their names."""
    return {entry["name"]: entry for entry in entries}


def merge_group(
    name: str,
    planned: JsonObject,
    cut: Mapping[str, JsonObject],
    kinds: Iterable[CostKind],
) -> Group:
    """Merge the description of a group in the plan and in the widths of pruned models.

    Args:
        name: Name of the group.
        planned: Group of plan.json, empty for a run without a plan.
        cut: Pruned model -> group of its widths.json.
        kinds: Kinds of cost in `Group.savings`.
    """
    # The width and the reason are the same in all of them; a run without a plan has the second.
    any_cut: JsonObject = next(iter(cut.values()), {})
    shares = planned.get("cost_shares") or {}
    savings = []
    for kind in kinds:
        share = shares.get(kind.name)
        savings.append(PAGE_MISSING if share is None else f"{share:.1%}")
    return Group(
        name=name,
        layers=tuple(planned.get("members", ())),
        before=planned.get("width") or any_cut["before"],
        after={model: group["after"] for model, group in cut.items()},
        min_width=planned.get("min_width"),
        savings=tuple(savings),
        reason=planned.get("reason") or any_cut.get("reason", ""),
    )
