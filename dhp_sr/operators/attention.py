"""Scaled dot-product attention, as a function and as a module.

queries (h, m, k), keys (h, s, k)   --product over k--> scores (h, m, s)
scores, values (h, s, n)            --product over s--> result (h, m, n)
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from dhp_sr.graph.self_attention import why_not_followed
from dhp_sr.operators.context import OpContext
from dhp_sr.operators.products import (
    BATCH_LETTERS,
    Operand,
    last_letters,
    operand_of,
    product_of,
)
from dhp_sr.operators.resampling import whole_image_field
from dhp_sr.operators.spec import CannotResize, OpSpec, Shape, Shapes, Unsupported


def attention_channels(op: OpContext) -> Tensor:
    """Attend: softmax(q k^T) v.

    Raises:
        Unsupported: Heads that share keys.
    """
    query, key, value = op.argument(0, "query"), op.argument(1, "key"), op.argument(2, "value")
    if op.arg_value(7, "enable_gqa", False):
        raise Unsupported(f"grouped queries at {op.layer}")
    batch = last_letters(BATCH_LETTERS, len(op.shape(query)) - 2)
    q, k = operand_of(op, query, f"{batch}mk"), operand_of(op, key, f"{batch}sk")
    if op.arg_value(6, "scale") is None:
        # The scale follows from the width, which must stay then: heads are the units.
        q.couple(op, ["k"])
        k.couple(op, ["k"])
    scores = f"{batch}ms"
    ids = product_of(op, q, k, scores, ".scores")
    shape = (*op.value.shape[:-1], k.size("s"))
    attention = Operand(scores, ids, shape, op.node)
    mask = op.argument(3, "attn_mask")
    if isinstance(mask, fx.Node) and isinstance(op.ids.get(mask), Tensor):
        op.analysis.pin(op.ids[mask], f"mask of the attention at {op.layer}")
        # A mask that differs along an axis has an entry for each of its positions or heads.
        mask_shape = op.shape(mask)
        for letter, size in zip(scores[-len(mask_shape) :], mask_shape, strict=True):
            if size > 1:
                attention.couple(op, [letter])
    values = operand_of(op, value, f"{batch}sn")
    return product_of(op, attention, values, f"{batch}mn", ".values")


def attention_module_channels(op: OpContext) -> Tensor:
    """Attend as a module; self attention without masks is followed operator by operator instead.

    Raises:
        Unsupported: Always, with the reason why this call is not followed.
    """
    reason = why_not_followed(op.module, op.args, op.node.kwargs)
    reason = reason or "gives away its weights, or has no batch axis"
    raise Unsupported(f"{op.operator} at {op.layer} {reason}")


def resize_attention_module(
    layer: Any, old: Mapping[str, Shape], new: Mapping[str, Shape]
) -> Shapes:
    """Set the width of the features; its weight is (queries, keys and values; in).

    Raises:
        CannotResize: The module has other weights than self attention needs.
    """
    if "in_proj_weight" not in new:
        name = next(name for name in old if new[name] != old[name])
        raise CannotResize(f"{name}: expected the weight of a self attention, found {old[name]}")
    projected, layer.embed_dim = new["in_proj_weight"]
    return {"in_proj_bias": (projected,)} if "in_proj_bias" in new else {}


OPS = (
    OpSpec("attention", (F.scaled_dot_product_attention,), attention_channels, whole_image_field),
    OpSpec(
        "attention module",
        (nn.MultiheadAttention,),
        channels=attention_module_channels,
        receptive_field=whole_image_field,
        resize=resize_attention_module,
    ),
)
