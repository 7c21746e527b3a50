"""The registry: everything that the project knows of each operator, found by any of its spellings.

Every file of rules lists its operators as `OPS`; this file puts them into a table. An operator
that is not in the table pins the channels that go into it, so nothing is pruned wrongly.
"""

from typing import Any

from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from dhp_sr.graph.tracer import LEAF_TYPES
from dhp_sr.operators import (
    along_axis,
    assignment,
    attention,
    constant_map,
    copies,
    einsum,
    elementwise,
    fourier,
    layers,
    new_tensors,
    norms,
    products,
    rearrange,
    reductions,
    resampling,
    sizes,
    slicing,
    splitting,
    windows,
)
from dhp_sr.operators.channel_norms import CHANNEL_NORM, width_of_vectors
from dhp_sr.operators.computed_layers import COMPUTED_LAYER
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.spec import ChannelRule, OpSpec, Target, Unsupported

_BUILT_IN: tuple[OpSpec, ...] = (
    *layers.OPS,
    *norms.OPS,
    *elementwise.OPS,
    *reductions.OPS,
    *resampling.OPS,
    *windows.OPS,
    *fourier.OPS,
    *rearrange.OPS,
    *copies.OPS,
    *slicing.OPS,
    *splitting.OPS,
    *products.OPS,
    *einsum.OPS,
    *attention.OPS,
    *assignment.OPS,
    *along_axis.OPS,
    *sizes.OPS,
    *new_tensors.OPS,
    *constant_map.OPS,
)


def _no_rule(op: OpContext) -> Any:
    """Refuse an operator without an entry, or a module that is more than its class."""
    module = op.module
    if module is not None and (module._forward_hooks or module._forward_pre_hooks):
        raise Unsupported(f"{op.operator} at {op.layer} has hooks")
    if module is not None and is_parametrized(module):
        advice = "torch.nn.utils.parametrize.remove_parametrizations makes them plain"
        raise Unsupported(f"{op.operator} at {op.layer} computes its weights ({advice})")
    raise Unsupported(f"operator {op.operator} at {op.layer} has no rule")


UNKNOWN = OpSpec("unknown", (), channels=_no_rule)
"""Stands for every operator that is not registered."""


def _table(specs: tuple[OpSpec, ...]) -> dict[Target, OpSpec]:
    table: dict[Target, OpSpec] = {}
    for spec in specs:
        for target in spec.targets:
            assert table.setdefault(target, spec) is spec, f"{target} has two entries"
    return table


_TABLE = _table(_BUILT_IN)
# Our own module: torch.fx would trace into it.
LEAF_TYPES.add(constant_map.ConstantMap)


def register_op(*targets: Target, channels: ChannelRule, name: str = "", **facts: Any) -> OpSpec:
    """Register an operator, in all its spellings, in place of any entry that they had.

    Example:
        A layer that scales every channel by a learned gain. Its channels are those of its input,
        its gain has an entry for each, it reads nothing but the pixel itself, and a cut sets its
        width::

            from dhp_sr.operators import Unsupported, register_op

            class ChannelGain(nn.Module):
                def __init__(self, width):
                    super().__init__()
                    self.width = width
                    self.gain = nn.Parameter(torch.ones(width))

                def forward(self, x):
                    return x * self.gain[:, None, None]

            def gain_channels(op):
                if op.value.dim() != 4:
                    raise Unsupported(f"ChannelGain at {op.layer} expects (N, C, H, W)")
                channels = op.channels(op.source)
                op.analysis.bind_axis(f"{op.layer}.gain", 0, channels)
                return op.broadcast_along(channels)

            def resize_gain(layer, old, new):
                layer.width = new["gain"][0]
                return {"gain": (layer.width,)}

            register_op(ChannelGain, channels=gain_channels, resize=resize_gain,
                        receptive_field=lambda op: op.field)

        A row in tests/topologies.py, a small network with it, tests every identity on it.

    Args:
        targets: Module classes, functions, and names of tensor methods. A class stands for itself
            alone, since the forward of a subclass may differ, and is not traced into.
        channels: The channel rule, see `dhp_sr.operators.spec.ChannelRule`; raises `Unsupported`
            for calls that it does not handle.
        name: For lists of operators; default: the name of the first target.
        facts: Further fields of `OpSpec`.

    Returns:
        The entry.

    Raises:
        ValueError: No target is given.
    """
    if not targets:
        raise ValueError("register_op: expected at least one module class, function or method name")
    spec = OpSpec(
        name or getattr(targets[0], "__name__", str(targets[0])), targets, channels, **facts
    )
    for target in targets:
        _TABLE[target] = spec
        if isinstance(target, type):
            LEAF_TYPES.add(target)
    return spec


def registered_specs() -> tuple[OpSpec, ...]:
    """Return all entries, each once, in order of registration."""
    return tuple(dict.fromkeys(_TABLE.values()))


def spec_for(node: fx.Node, module: nn.Module | None) -> OpSpec:
    """Return the entry of a node's operator, or `UNKNOWN`.

    Args:
        node: A call of a module, function or method.
        module: The module called, or None.
    """
    if module is not None:
        # Hooks may change anything that the layer computes.
        has_hooks = module._forward_hooks or module._forward_pre_hooks
        if has_hooks:
            return UNKNOWN
        if type(module) in _TABLE or type(module).__module__.startswith("torch.nn."):
            return _TABLE.get(type(module), UNKNOWN)
        # Of other classes only these are not traced into.
        return COMPUTED_LAYER if width_of_vectors(module) is None else CHANNEL_NORM
    target = node.target
    if target not in _TABLE and not isinstance(target, str):
        # Functions of packages that need not be installed are registered by their qualified names.
        target = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
    return _TABLE.get(target, UNKNOWN)


def spec_of_module(module: nn.Module) -> OpSpec | None:
    """Return the entry of a module's class, or of its nearest registered base class."""
    # For resizing a subclass is like its base: it holds the same tensors, whatever its forward does
    # with them. (For the analysis it is not: `spec_for` takes the class itself.)
    for base in type(module).__mro__:
        if base in _TABLE:
            return _TABLE[base]
    return None
