"""`nn.MultiheadAttention` as self attention, written with operators that can be followed.

torch's module has a single number for the width of the features, of the projections and of all
heads together, and scales by the width of a head. Written out, each of these is a width of its own:

    x (n, l, E) -> linear (3 E) -> split -> q, k, v (n, heads, l, d) -> attention, fixed scale
                -> (n, l, heads * d) -> linear (E)

So a pruned module runs in the traced forward alone, see `dhp_sr.surgery.rewrite`.
"""

import inspect
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

_SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)


def call_arguments(module: nn.MultiheadAttention, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a call by name, with the defaults of those that are not given."""
    bound = _SIGNATURE.bind(module, *args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def why_not_followed(module: nn.MultiheadAttention, args: Any, kwargs: Any) -> str:
    """Return why a call is not written out; empty if it can be.

    Args:
        module: The module called.
        args: Positional arguments; proxies, nodes or tensors.
        kwargs: Named arguments.
    """
    given = call_arguments(module, args, kwargs)
    is_of_itself = given["query"] is given["key"] and given["key"] is given["value"]
    if not is_of_itself:
        return "attends to other features than those that ask"
    if given["attn_mask"] is not None or given["key_padding_mask"] is not None:
        return "has a mask"
    if module.bias_k is not None or module.bias_v is not None or module.add_zero_attn:
        return "adds keys of its own"
    if module.in_proj_weight is None:
        return "has separate weights for queries, keys and values"
    return ""


def is_followed(module: nn.MultiheadAttention, args: Any, kwargs: Any) -> bool:
    """Return whether a call in a traced forward is followed operator by operator."""
    has_hooks = module._forward_hooks or module._forward_pre_hooks
    if has_hooks or why_not_followed(module, args, kwargs):
        return False
    query = call_arguments(module, args, kwargs)["query"]
    # Without a batch axis the steps below would be others.
    return isinstance(query, fx.Proxy) and query.dim() == 3


def attend(module: nn.MultiheadAttention, features: Any) -> tuple[Any, Any]:
    """Compute the result of a module for features that attend to one another.

    Args:
        module: A module for which `why_not_followed` has no objection.
        features: (N, L, E) with `batch_first`, else (L, N, E).

    Returns:
        The result, of the same shape, and the operands (queries, keys) of its weights, each
        (N, heads, L, E / heads); the queries are scaled.
    """
    if not module.batch_first:
        features = features.transpose(0, 1)
    batch, length = features.shape[0], features.shape[1]
    projected = F.linear(features, module.in_proj_weight, module.in_proj_bias)
    projections = projected.split([module.embed_dim] * 3, dim=-1)

    def in_heads(projection: Any) -> Any:
        return projection.reshape(batch, length, module.num_heads, -1).transpose(1, 2)

    # A number from here on: with fewer dimensions in a head the scale stays as it was trained.
    scale = module.head_dim**-0.5
    query = in_heads(projections[0]) * scale
    key = in_heads(projections[1])
    value = in_heads(projections[2])
    if module.dropout > 0:
        attention = (query @ key.transpose(-2, -1)).softmax(dim=-1)
        attention = F.dropout(attention, module.dropout, training=module.training)
        result = attention @ value
    else:
        result = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    result = result.transpose(1, 2).reshape(batch, length, -1)
    result = F.linear(result, module.out_proj.weight, module.out_proj.bias)
    if not module.batch_first:
        result = result.transpose(0, 1)
    return result, (query, key)


def attention_weights(operands: tuple[Any, Any], is_averaged: bool) -> Any:
    """Return the weights of an attention, (N, L, L) averaged over heads or (N, heads, L, L)."""
    query, key = operands
    weights = (query @ key.transpose(-2, -1)).softmax(dim=-1)
    return weights.mean(dim=1) if is_averaged else weights
