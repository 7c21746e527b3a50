"""Operators: one registry entry (`OpSpec`) for each, with everything that the project knows of it.

Start reading with `spec` (the fields of an entry) and `registry` (`register_op`, with a worked
example). The rules are in `layers`, `norms`, `elementwise`, `reductions`, `resampling`,
`rearrange`, `slicing` and `sizes`; `resize` gives the modules of a network other widths.
"""

from dhp_sr.operators.registry import register_op
from dhp_sr.operators.spec import OpSpec, Unsupported

__all__ = ["OpSpec", "Unsupported", "register_op"]
