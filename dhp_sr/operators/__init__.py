"""Operators: one registry entry (`OpSpec`) for each, with everything that the project knows of it.

Start reading with `spec` (the fields of an entry) and `registry` (`register_op`, with a worked
example). The rules are in `layers`, `norms`, `elementwise`, `reductions`, `resampling`,
`rearrange`, `slicing`, `splitting`, `assignment`, `products` and `sizes`; they see a node by its
`context`, and write what they find into the `analysis_context`. `resize` gives the modules of a
network other widths.

Modules that compute their weight in the forward have no entry: `computed_layers` is the rule for
all of them, and `coupled_axes` finds by `channel_experiment` which of their axes hold the same
channels.
"""

from dhp_sr.operators.registry import register_op
from dhp_sr.operators.spec import OpSpec, Unsupported

__all__ = ["OpSpec", "Unsupported", "register_op"]
