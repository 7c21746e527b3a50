"""Widths of every layer before and after, and the plan behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dhp_sr.reports.page.formatting import MISSING
from dhp_sr.reports.run import Run


@dataclass(frozen=True)
class Bar:
    """One layer in one cut model."""

    model: str
    """Its name."""
    into: int
    """Input channels."""
    out: int
    """Output channels."""
    share: float
    """Of the widest layer, in percent."""
    weights: str
    """Kept fraction of its weights."""


@dataclass(frozen=True)
class Layer:
    """One layer before the cut and in every cut model."""

    name: str
    """In the network."""
    kind: str
    """Class of the module."""
    into: int
    """Input channels."""
    out: int
    """Output channels."""
    share: float
    """Of the widest layer, in percent."""
    bars: tuple[Bar, ...]
    """One for each cut model that has the layer."""


@dataclass(frozen=True)
class Group:
    """Channels that live and die together."""

    name: str
    """Usually the first layer that makes them."""
    layers: tuple[str, ...]
    """All that have these channels; empty where the run kept no plan."""
    before: int
    """Channels of the dense network."""
    after: tuple[tuple[str, int], ...]
    """Cut model and its width."""
    floor: int | None
    """What no cut goes below; None where the run kept no plan."""
    shares: tuple[str, ...]
    """Fractions of multiply-adds and parameters that go when it alone is cut to its floor."""
    reason: str
    """Why it is pinned; empty where it is not."""


def layers(cuts: Mapping[str, Mapping[str, Any]]) -> list[Layer]:
    """Return the layers of a run, or of several: model -> contents of `widths.json`.

    Layers have their names and widths from the first model; a model that lacks a layer, or had another one of that name
    before its cut, has no bar there.
    """
    if not cuts:
        return []
    first = next(iter(cuts.values()))["layers"]
    widest = max((layer["before"][0] for layer in first), default=1)
    found = {
        model: {layer["name"]: layer for layer in widths["layers"]}
        for model, widths in cuts.items()
    }
    return [_layer(layer, found, widest) for layer in first]


def _layer(layer: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], widest: int) -> Layer:
    out, into = layer["before"]
    bars = []
    for model, named in found.items():
        other = named.get(layer["name"])
        if other is not None and other["before"] == layer["before"]:
            out_after, in_after = other["after"]
            weights = f"{out_after * in_after / (out * into):.0%}"
            bars.append(Bar(model, in_after, out_after, 100 * out_after / widest, weights))
    return Layer(layer["name"], layer["kind"], into, out, 100 * out / widest, tuple(bars))


def groups(run: Run) -> list[Group]:
    """Return the groups of a run: from its plan, with the widths of its cuts; from the cuts alone in older runs."""
    planned = {group["name"]: group for group in (run.plan or {}).get("groups", [])}
    cut = {
        model: {group["name"]: group for group in widths["groups"]}
        for model, widths in run.cuts.items()
    }
    first: Sequence[Mapping[str, Any]] = next(iter(run.cuts.values()))["groups"] if run.cuts else []
    names = list(dict.fromkeys([*planned, *(group["name"] for group in first)]))
    return [_group(name, planned.get(name, {}), cut) for name in names]


def _group(name: str, planned: Mapping[str, Any], cut: Mapping[str, Mapping[str, Any]]) -> Group:
    found = [(model, named[name]) for model, named in cut.items() if name in named]
    any_cut = found[0][1] if found else {}
    controls = planned.get("controls") or {}
    return Group(
        name=name,
        layers=tuple(planned.get("members", ())),
        before=planned.get("width", any_cut.get("before")),
        after=tuple((model, group["after"]) for model, group in found),
        floor=planned.get("floor"),
        shares=tuple(
            f"{controls[kind]:.1%}" if kind in controls else MISSING for kind in ("macs", "params")
        ),
        reason=planned.get("reason", any_cut.get("reason", "")),
    )
