"""Every value of a cut network is a block: what is kept of it, it keeps along one axis alone."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from dhp_sr.operators.analysis_context import AnalysisContext
from dhp_sr.operators.channel_ids import compact


def resolve_reshaped_axes(analysis: AnalysisContext, ids: Mapping[fx.Node, Any]) -> None:
    """Tie channels until, in every value, they vary along one axis.

    `x.view(n, 2, c // 2, h, w)` lays c channels along two axes: either the second or the third may lose entries, the
    same ones at each place of the other. Chosen is an axis whose length the forward works out itself, else the longest.
    """
    waiting = [
        (node, part) for node, found in ids.items() for part in _tensors(found) if _axes(part) > 1
    ]
    while waiting:
        roots = analysis.union_find.roots()
        spread = [(node, part, compact(roots[part])) for node, part in waiting]
        ragged = [(node, part, classes) for node, part, classes in spread if _axes(classes) > 1]
        for node, part, classes in ragged[:1]:
            _choose(analysis, node, part, classes)
        waiting = [(node, part) for node, part, _ in ragged]


def _choose(analysis: AnalysisContext, node: fx.Node, ids: Tensor, classes: Tensor) -> None:
    free = analysis.inferred_axes.get(node.name, set())
    axes = [dim for dim, size in enumerate(classes.shape) if size > 1]
    chosen = max(axes, key=lambda dim: (dim in free, classes.shape[dim]))
    rows = ids.movedim(chosen, 0).flatten(1)
    analysis.union_find.union(rows, rows[:, :1].expand_as(rows))


def _tensors(found: Any) -> list[Tensor]:
    return [
        part for part in (found if isinstance(found, list) else [found]) if isinstance(part, Tensor)
    ]


def _axes(ids: Tensor) -> int:
    return sum(size > 1 for size in ids.shape)
