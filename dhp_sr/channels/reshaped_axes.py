"""Values whose channels a reshape lays along several axes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from dhp_sr.operators.analysis_context import AnalysisContext
from dhp_sr.operators.channel_ids import compact, varying_axes


def resolve_reshaped_axes(analysis: AnalysisContext, ids: Mapping[fx.Node, Any]) -> None:
    """Unite channels until the channels of every value vary along a single axis.

    `x.view(n, 2, c // 2, h, w)` lays c channels along two axes. A cut value must again be a full
    block, so either the second or the third axis may lose entries, the same ones at each index of
    the other. The axis whose length the forward infers itself is chosen, else the longest.
    """
    waiting: list[tuple[fx.Node, Tensor]] = []
    for node, result in ids.items():
        values = result if isinstance(result, list) else [result]
        for value in values:
            if isinstance(value, Tensor) and len(varying_axes(value)) > 1:
                waiting.append((node, value))
    while waiting:
        roots = analysis.union_find.roots()
        unresolved: list[tuple[fx.Node, Tensor]] = []
        for node, value in waiting:
            classes = compact(roots[value])
            axes = varying_axes(classes)
            if len(axes) < 2:
                continue
            # A union may settle further values (a view and its inverse), so only the first value is
            # resolved before the classes are computed again.
            if not unresolved:
                inferred = analysis.inferred_axes.get(node.name, set())
                kept = max(axes, key=lambda dim: (dim in inferred, classes.shape[dim]))
                # Along the kept axis entries differ as before; along the others they are united.
                rows = value.movedim(kept, 0).flatten(1)
                analysis.union_find.union(rows, rows[:, :1].expand_as(rows))
            unresolved.append((node, value))
        waiting = unresolved
