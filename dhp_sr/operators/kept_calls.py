"""Calls of functions that take statistics over channels: a mean over them, a softmax along them.

    x (n, c, h, w) -> x.mean(1) and x.amax(1) -> joined -> convolution -> sigmoid      CBAM

As of a normalization over channels, the statistics are those of the kept channels, in the masked
network as in the cut one; with all channels kept that is the original. A function has no module
that could be told which these are: it is known by its place in a module's forward.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from dhp_sr.graph.call_sites import CallSite, owner_of, recorded_call_site
from dhp_sr.graph.computed_weights import arguments_of
from dhp_sr.operators.analysis_context import AnalysisContext, CallChannels, KeptAxes
from dhp_sr.operators.channel_ids import varying_axes
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.spec import Unsupported


def axis_of_statistics(op: OpContext, dims: Sequence[int]) -> int | None:
    """Return the axis among `dims` that holds the channels; None where it is not a single one."""
    axes = varying_axes(op.ids[op.source])
    rank = len(op.shape(op.source))
    is_over_channels = len(axes) == 1 and axes[0] in [dim % rank for dim in dims]
    return axes[0] if is_over_channels else None


def keep_channels_of_call(
    op: OpContext,
    dim: int,
    *,
    returns_channels: bool,
    vectors: tuple[str, ...] = (),
    shape_at: int | None = None,
) -> Tensor:
    """State that a call takes its statistics over the kept channels; returns the channels.

    Args:
        op: The call of a function or method.
        dim: Axis of its first input that holds the channels.
        returns_channels: Whether its result has them as well.
        vectors: Names of arguments with an entry for each channel.
        shape_at: Position of the argument that states the number of channels, as (C,).

    Raises:
        Unsupported: The plan was asked to pin such channels, or the call is not found again.
    """
    site = _site_of_call(op)
    channels = _channels_along(op, dim)
    from_back = dim - len(op.shape(op.source))
    call = CallChannels(owner_of(op.node), site, op.operator, from_back, channels, returns_channels)
    _record_call(op, call._replace(vectors=vectors, shape_at=shape_at))
    return channels


def zero_summed_channels(op: OpContext, node: fx.Node, dim: int, channels: Tensor) -> None:
    """State that a call that sums over channels is given zeros in those that are not kept.

    A product that is zero adds nothing to a sum, as one that is cut. Where the call cannot be told
    which channels are kept, they are pinned.

    Args:
        op: The call of a function or method.
        node: One of its arguments.
        dim: Axis of the argument that holds the channels.
        channels: (C,) their ids.
    """
    positions = [place for place, argument in enumerate(op.args) if argument is node]
    is_one_each = len(torch.unique(channels)) == len(channels)
    try:
        if not positions or not is_one_each:
            raise Unsupported(f"{op.operator} at {op.layer} mixes all channels")
        site = _site_of_call(op)
        from_back = dim - len(op.shape(node))
        call = CallChannels(
            owner_of(op.node), site, op.operator, from_back, channels, False, positions[0]
        )
        _record_call(op, call)
    except Unsupported:
        reason = f"summed over at {op.layer}, and maybe not zero where they are masked"
        op.analysis.pin(channels, reason)


def _site_of_call(op: OpContext) -> CallSite:
    """Return the place of a call in the source.

    Raises:
        Unsupported: It is not known, or the plan was asked to pin the channels of such calls.
    """
    site = recorded_call_site(op.node)
    if not op.analysis.kept_statistics_allowed or site is None or op.module is not None:
        raise Unsupported(f"{op.operator} at {op.layer} mixes all channels")
    return site


def _record_call(op: OpContext, call: CallChannels) -> None:
    """Record a call, and couple its channels with those of others from the same place.

    Raises:
        Unsupported: These are over different channels.
    """
    for name, other in op.analysis.kept_calls.items():
        if (other.module, other.site) != (call.module, call.site):
            continue
        # In a loop, or in a module that is called twice, it is not known which call is which.
        if _form(other) != _form(call):
            reason = f"{name} and {op.layer} are one call in the source, over different channels"
            op.analysis.pin(other.channels, reason)
            raise Unsupported(reason)
        op.analysis.union_find.union(other.channels, call.channels)
    op.analysis.kept_calls[op.node.name] = call


def _form(call: CallChannels) -> tuple[object, ...]:
    """Return what calls from the same place must have in common."""
    return (call.dim, len(call.channels), call.zeroed, call.vectors, call.shape_at)


def keep_channels_of_module(
    op: OpContext, dim: int, vectors: Iterable[tuple[str, int]] = ()
) -> Tensor:
    """State that a module works with the kept channels alone; returns the channels.

    Args:
        op: The call of a module, whose result has the channels of its input.
        dim: Axis of both that holds them.
        vectors: Tensors of the module, and their axes, that hold the same channels.

    Raises:
        Unsupported: The plan was asked to pin such channels, or the module is called for others.
    """
    if not op.analysis.kept_statistics_allowed:
        raise Unsupported(f"{op.operator} at {op.layer} mixes all channels")
    # Vectors have the length that the axis must have.
    channels = op.channels(op.source, dim) if vectors else _channels_along(op, dim)
    from_back = dim - len(op.shape(op.source))
    inputs: dict[tuple[int | str, int], Tensor] = {}
    for key, argument in arguments_of(op.module, op.node.args, op.node.kwargs).items():
        if argument is op.source:
            inputs[key, from_back] = channels
    axes = KeptAxes(inputs, dict.fromkeys(vectors, channels), from_back, channels)
    # Without weights that would be cut, as a softmax: one module for several features.
    known = op.analysis.kept_statistics.get(op.layer, axes)
    if (known.out_dim, len(known.output)) != (from_back, len(channels)):
        reason = f"{op.layer} is called with different channels"
        op.analysis.pin(known.output, reason)
        raise Unsupported(reason)
    op.analysis.union_find.union(known.output, channels)
    op.analysis.kept_statistics[op.layer] = axes
    return channels


def _channels_along(op: OpContext, dim: int) -> Tensor:
    """Return the channels along an axis that has one entry for each of them.

    Raises:
        Unsupported: Channels and pixels lie along it, as many as the image has: which entries are
            kept would depend on the size of the image.
    """
    channels = op.channels(op.source, dim)
    if len(torch.unique(channels)) < len(channels):
        raise Unsupported(f"{op.operator} over channels, several entries each, at {op.layer}")
    return channels


def pin_ambiguous_calls(nodes: Iterable[fx.Node], analysis: AnalysisContext) -> None:
    """Pin the channels of calls from a place in the source that also calls over other axes.

    It would not be known where the network runs which call is which.
    """
    other_places = set()
    for node in nodes:
        is_call = (
            node.op in ("call_function", "call_method") and node.name not in analysis.kept_calls
        )
        # The transposed value of `x @ y.mT` is recorded where it is used.
        if is_call and node.target is not getattr:
            other_places.add((owner_of(node), recorded_call_site(node)))
    for name, call in analysis.kept_calls.items():
        if (call.module, call.site) in other_places:
            reason = f"{name} is one call in the source with others that are not over channels"
            analysis.pin(call.channels, reason)


def reduce_kept_channels(op: OpContext, dims: Sequence[int]) -> Any:
    """Reduce over the kept channels; returns the ids of a result that has no channels.

    Raises:
        Unsupported: There are other channels left along several axes, or the result tells which
            channel it was.
    """
    dim = axis_of_statistics(op, dims)
    # Numbered among the kept ones, an index is of no use for all of them.
    tells_index = op.operator.startswith("arg") or _reads_indices(op)
    if dim is None or tells_index:
        raise Unsupported(f"{op.operator} over channels at {op.layer}")
    keep_channels_of_call(op, dim, returns_channels=False)
    return op.analysis.new_pinned(
        op.value, op.layer, f"one value for all channels, from {op.operator} at {op.layer}"
    )


def _reads_indices(op: OpContext) -> bool:
    """Return whether anything reads more than the values of `x.max(1)`."""
    if not isinstance(op.value, tuple) or op.operator in ("var_mean", "std_mean"):
        return False
    read = [user.args[1:] for user in op.node.users]
    return any(items not in ((0,), ("values",)) for items in read)
