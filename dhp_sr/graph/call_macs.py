"""Multiply-adds of a call that no rule of its operator counts."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from dhp_sr.graph.shape_inference import to_meta


def _vector_products() -> dict[Any, Callable[..., int]]:
    """Return the products that torch's counter does not know -> their operations by the shapes."""
    # torch counts a multiplication and an addition as two operations.
    aten = torch.ops.aten
    return {
        aten.mv: lambda matrix, *shapes, **more: 2 * math.prod(matrix),
        aten.dot: lambda vector, *shapes, **more: 2 * math.prod(vector),
        aten.vdot: lambda vector, *shapes, **more: 2 * math.prod(vector),
        aten.addmv: lambda summand, matrix, *shapes, **more: 2 * math.prod(matrix),
        # The products of a batch are summed: (b, n, m) and (b, m, p).
        aten.addbmm: lambda summand, left, right, **more: 2 * math.prod(left) * right[-1],
    }


@torch.no_grad()
def count_macs(node: fx.Node, module: nn.Module | None, args: Any, kwargs: Any) -> int:
    """Return the multiply-adds of a call, whatever its operator is, as torch counts them.

    Args:
        node: The call.
        module: The module called, or None.
        args: Positional arguments, with values for nodes.
        kwargs: Keyword arguments, with values for nodes.

    Returns:
        0 where the call does not run on its own.
    """
    # Imported here, as it imports torch's compiler: most networks have no such call.
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping=_vector_products())
    # The fused operator of nn.MultiheadAttention would hide its products.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        if module is not None:
            module = copy.deepcopy(module)
            if any(isinstance(arg, Tensor) and arg.is_meta for arg in args):
                to_meta(module)
            with counter:
                module(*args, **kwargs)
        elif isinstance(node.target, str):
            with counter:
                getattr(args[0], node.target)(*args[1:], **kwargs)
        else:
            assert callable(node.target)
            with counter:
                node.target(*args, **kwargs)
    except Exception:  # whatever an operator raises; it ran before, in its place
        return 0
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    # torch counts a multiplication and an addition as two operations.
    return int(counter.get_total_flops() // 2)
